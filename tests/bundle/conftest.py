"""What the tests of bundles share: a bundle, and which of its files were hashed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from valley2_edge import bundle as bundle_module
from valley2_edge.user_data import DATA_DIRECTORY_VARIABLE

# pytest's importlib mode leaves the import of helper modules to the project.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good bundle, and a data directory of its own."""
    from plain_bundle import FILES, write_manifest

    monkeypatch.setenv(DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    bundle = tmp_path / "bundle"
    for name, data in FILES.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(data)
    write_manifest(bundle)
    return bundle


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, in order."""
    names: list[str] = []
    real = bundle_module.hash_file

    def spy(path: Path, error: Any, progress: Any = None) -> Any:
        names.append(path.name)
        return real(path, error, progress)

    monkeypatch.setattr(bundle_module, "hash_file", spy)
    return names
