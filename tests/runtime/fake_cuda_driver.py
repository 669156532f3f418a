"""A GPU that is this processor: the kernels' own sources behind a libcuda.so.1 of the tests (docs/gpu.md)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "runtime" / "native"
BUILD = ROOT / "build" / "native-tests"
"""Where tests/native builds, too."""
FATBIN = b"\x50\xed\x55\xba" + bytes(60)
"""Enough of a fatbin for the fake driver, which has its kernels already."""


@functools.cache
def build_driver() -> Path:
    """The fake libcuda.so.1, built where it is not up to date."""
    if sys.platform != "linux":
        pytest.skip("the fake driver is for Linux")
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cmake, ninja = (shutil.which(name, path=search) for name in ("cmake", "ninja"))
    assert cmake and ninja, "cmake or ninja is missing: install the dev extra"
    configure = (cmake, "-S", NATIVE, "-B", BUILD, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}")
    BUILD.mkdir(parents=True, exist_ok=True)
    # Another worker may build there at the same time.
    with FileLock(BUILD / ".lock"):
        run(*configure, "-DV2E_TESTS=ON", "-DV2E_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Release")
        run(cmake, "--build", BUILD, "--target", "valley2_fake_cuda")
    return BUILD / "fake_cuda" / "libcuda.so.1"


def run(*command: str | Path) -> None:
    """Runs a build tool, whose output is shown when it fails."""
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-6000:]


class FakeGpu:
    """What a test changes of the fake driver, and what it looks at."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        self._patch = patch
        self._log = directory / "calls"

    def set(self, **settings: object) -> None:
        """Sets V2E_FAKE_CUDA_<NAME> (tests/cuda_emulation/fake_driver.cpp)."""
        for name, value in settings.items():
            self._patch.setenv(f"V2E_FAKE_CUDA_{name.upper()}", str(value))

    def record(self) -> None:
        """Notes calls of the driver from here on."""
        self.set(log=self._log)
        self._log.write_text("")

    def calls(self) -> list[str]:
        """The calls since `record`; a launch is followed by "launch <kernel>"."""
        return self._log.read_text().splitlines()
