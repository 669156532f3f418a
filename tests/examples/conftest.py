"""What the tests of the example programs share: the core as `cmake --install` puts it, and what Python answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from valley2_edge import Valley2

sys.path.insert(0, str(Path(__file__).parent))

from program_build import NANO, PICTURES, ROOT, build, run, tool

CORE_BUILD = ROOT / "build" / "native-tests"
"""The build of the core's own tests: each file is compiled once for both."""


@pytest.fixture(scope="session")
def installed(run_directory: Path) -> Path:
    """The prefix of an installed core; not to be changed."""
    prefix = run_directory / "installed"
    CORE_BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(CORE_BUILD / ".lock"):
        if not prefix.is_dir():
            build(ROOT / "runtime" / "native", CORE_BUILD, "valley2", "-DV2E_TESTS=ON", "-DV2E_CUDA=OFF")
            run(tool("cmake"), "--install", CORE_BUILD, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def installed_library(installed: Path) -> Path:
    """The shared library in it."""
    (library,) = {path.resolve() for path in installed.rglob("libvalley2.so*")}
    return library


@pytest.fixture(scope="session")
def said_by_python() -> Callable[[str, str], str]:
    """What the Python package answers with valley2-nano about a picture of the demo."""

    def ask(question: str, picture: str) -> str:
        with Valley2.load(NANO) as model:
            return "".join(model.chat(question, images=[PICTURES / picture]))

    return ask
