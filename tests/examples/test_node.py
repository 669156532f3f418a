"""The package for Node.js in examples/node: its own tests, its types, and its program on the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from program_build import NANO, PICTURES, ROOT

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "examples" / "node"
QUESTION = "What is the price?"


@pytest.fixture(scope="module")
def node(installed_library: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Node.js in the package's folder with the installed library."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js (Debian: nodejs)")
    if not (PACKAGE / "node_modules" / "koffi").is_dir():
        pytest.skip("needs koffi: npm ci --prefix examples/node")
    environment = os.environ | {"VALLEY2_LIBRARY": str(installed_library)}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["node", *arguments]
        return subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=300, env=environment)

    return run


def test_its_own_tests_pass(node: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = node("--test", "tests/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout and "# pass 0" not in done.stdout


def test_types_describe_it(node: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    if shutil.which("npm") is None or not (PACKAGE / "node_modules" / "typescript").is_dir():
        pytest.skip("needs npm and TypeScript: npm ci --prefix examples/node")
    done = subprocess.run(["npm", "run", "--silent", "types"], cwd=PACKAGE, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_program_answers_what_python_answers(
    node: Callable[..., subprocess.CompletedProcess[str]], said_by_python: Callable[[str, str], str]
) -> None:
    done = node("ask.js", NANO, PICTURES / "card.png", QUESTION)
    assert done.returncode == 0, done.stderr
    assert done.stdout == said_by_python(QUESTION, "card.png") + "\n"


def test_program_says_what_is_wrong(node: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = node("ask.js", tmp_path / "missing", PICTURES / "card.png", QUESTION)
    assert done.returncode == 1
    assert "Valley2Error" in done.stderr and "missing" in done.stderr and "    at " not in done.stderr
