"""What several tests of the export share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from valley2_edge.export.pipeline import export_bundle

sys.path.insert(0, str(Path(__file__).parent))
CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, exported with the default options; not to be changed."""
    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("export") / "tiny")
