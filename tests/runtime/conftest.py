"""What the tests of the run time share: a loaded model and a session of it, and the way to their helper modules."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from valley2_edge import Session, Valley2

# pytest's importlib mode leaves the import of helper modules to the project.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def model(fp32_bundle: Path) -> Iterator[Valley2]:
    """The tiny checkpoint in fp32, loaded for the tests of one file."""
    # Nothing is reused, so that every question goes through every stage.
    with Valley2.load(fp32_bundle, threads=2, keep_vision=True, vision_cache_bytes=0, prefix_cache_bytes=0) as loaded:
        yield loaded


@pytest.fixture
def session(model: Valley2) -> Iterator[Session]:
    """A new session of the model."""
    session = model.session()
    yield session
    session.close()
