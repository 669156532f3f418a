"""The C++ core's own tests, and its header as C and as C++ see it."""

from __future__ import annotations

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
"""Kept between runs, so that only what changed is compiled again."""
HEADER_USERS = {
    "valley2.h": "v2e_last_error() == 0",
    "valley2_parts.h": "v2e_rounder_open(1, V2E_ISA_AUTO, 0) == V2E_OK",
    "valley2_model_parts.h": "v2e_model_tokenizer(0, 0) == V2E_OK",
}
"""What a program asks of each header."""


def tool(name: str) -> str:
    """A build tool of this environment, or else of the machine."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=search)
    assert found is not None, f"{name} is missing: install the dev extra"
    return found


def run(*command: str | Path) -> None:
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-6000:]


@pytest.mark.parametrize("header", HEADER_USERS)
@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"), [("cc", "c99", ".c"), ("c++", "c++17", ".cpp")], ids=["C99", "C++17"]
)
def test_header_compiles_without_a_warning(
    tmp_path: Path, compiler: str, standard: str, suffix: str, header: str
) -> None:
    source = tmp_path / f"user{suffix}"
    source.write_text(f'#include "{header}"\nint main(void) {{ return {HEADER_USERS[header]}; }}\n')
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
    run(tool(compiler), f"-std={standard}", *warnings, "-I", NATIVE / "include", "-fsyntax-only", source)


def test_example_in_c_compiles_without_a_warning() -> None:
    source = ROOT / "examples" / "c" / "chat.c"
    run(
        tool("cc"),
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-I",
        NATIVE / "include",
        "-fsyntax-only",
        source,
    )


@pytest.mark.slow
def test_unit_tests_of_the_core_pass() -> None:
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    options = ("-DV2E_TESTS=ON", "-DV2E_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Release")
    BUILD.mkdir(parents=True, exist_ok=True)
    # Another worker may build the stand-in for the GPU's driver there at the same time.
    with FileLock(BUILD / ".lock"):
        run(tool("cmake"), "-S", NATIVE, "-B", BUILD, *generator, *options)
        run(tool("cmake"), "--build", BUILD, "--parallel", jobs)
    run(tool("ctest"), "--test-dir", BUILD, "--output-on-failure", "--no-tests=error")
