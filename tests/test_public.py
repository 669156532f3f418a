"""What `import valley2_edge` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import valley2_edge


def test_every_public_name_exists() -> None:
    for name in valley2_edge.__all__:
        assert getattr(valley2_edge, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Valley3'"):
        _ = valley2_edge.Valley3


def test_import_from_the_sources_alone_says_what_to_do() -> None:
    root = Path(__file__).parents[1]
    # -S: the interpreter sees no installed packages, and so no editable install.
    command = [sys.executable, "-S", "-c", "from valley2_edge import Valley2"]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(
        "ModuleNotFoundError: valley2_edge was imported from its sources"
    )
