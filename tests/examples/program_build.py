"""Builds what the tests of the example programs need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "valley2_edge" / "builtin" / "valley2-nano-int4"
PICTURES = ROOT / "examples" / "pictures"


def tool(name: str) -> str:
    """A build tool of this environment, or else of the machine; without it the test is skipped."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=search)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def run(*command: str | Path) -> str:
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-6000:]
    return finished.stdout


def build(source: Path, directory: Path, target: str, *options: str) -> None:
    """Configures a CMake project and builds one of its targets."""
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-DCMAKE_BUILD_TYPE=Release")
    run(tool("cmake"), "-S", source, "-B", directory, *generator, *options)
    run(tool("cmake"), "--build", directory, "--target", target)
