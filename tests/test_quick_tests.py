"""`make test` stays quick and tests every folder: files that load transformers are slow as a whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("test_*.py"))
FOLDERS = sorted({path.relative_to(TESTS).parts[0] for path in FILES if path.parent != TESTS})
SLOW = re.compile(r"^pytestmark = pytest\.mark\.slow$", re.MULTILINE)
LOADS_TRANSFORMERS = re.compile(
    r"^(from|import) (transformers|valley2_edge\.export\.(pipeline|steps|vision\.torch_reference|decoder\.reference))\b"
    r"|^from valley2_edge\.export import .*\bpipeline\b",
    re.MULTILINE,
)
"""The imports take seven seconds of processor time in every worker, before the first test."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_quick_tests(folder: str) -> None:
    files = sorted((TESTS / folder).rglob("test_*.py"))
    assert any(not SLOW.search(path.read_text("utf-8")) for path in files)


def test_quick_files_load_no_transformers() -> None:
    quick = [path for path in FILES if not SLOW.search(path.read_text("utf-8"))]
    found = [path.relative_to(TESTS).as_posix() for path in quick if LOADS_TRANSFORMERS.search(path.read_text("utf-8"))]
    assert not found, "import it in the tests that need it, marked slow, or mark the file with pytestmark"
