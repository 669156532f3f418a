"""What the tests of the run time share: a loaded model and a session of it, and the way to their helper modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from valley2_edge import Session, Valley2, backends, register_backend

if TYPE_CHECKING:
    from vision_backends import FakeBackend

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


@pytest.fixture
def fake() -> Iterator[FakeBackend]:
    """A vision backend that is registered under the name "fake"."""
    from vision_backends import FakeBackend

    backend = FakeBackend()
    register_backend("fake", lambda bundle, options: backend)
    yield backend
    backends._factories.pop("fake")
