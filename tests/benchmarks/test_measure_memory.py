"""The memory measurement sees private memory and pages of mapped files, and keeps the command's exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "measure_memory.py"
MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses the POSIX wait for a child's peak")


def measure(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def peak_gib(finished: subprocess.CompletedProcess[str]) -> float:
    found = re.search(r"peak resident memory ([\d.]+) GiB", finished.stderr)
    assert found is not None, finished.stderr
    return float(found[1])


def test_private_memory_counts() -> None:
    finished = measure("--", sys.executable, "-c", "block = bytearray(b'x') * (300 << 20)")
    assert finished.returncode == 0
    assert 0.29 < peak_gib(finished) < 0.45


@pytest.mark.slow
def test_pages_of_mapped_files_count(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(bytes(300 * MIB))
    program = (
        "import mmap, sys; file = open(sys.argv[1], 'rb'); "
        "pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); pages.find(b'x')"
    )
    assert 0.29 < peak_gib(measure("--", sys.executable, "-c", program, str(path))) < 0.45


def test_exceeding_the_limit_fails() -> None:
    finished = measure("--limit-gib", "0.1", "--", sys.executable, "-c", "block = bytearray(b'x') * (300 << 20)")
    assert finished.returncode == 1
    assert "more than the limit of 0.1 GiB" in finished.stderr


def test_exit_code_of_the_command_is_kept() -> None:
    assert measure("--", sys.executable, "-c", "raise SystemExit(7)").returncode == 7
