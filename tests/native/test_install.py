"""`cmake --install` gives a C program all that it needs: headers, library, pkg-config and a CMake package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from valley2_edge.chosen_bundle import resolve_bundle

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "runtime" / "native"
BUILD = ROOT / "build" / "native-tests"
"""The folder of the core's own tests."""
EXAMPLE = ROOT / "examples" / "c" / "chat.c"
PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(chat LANGUAGES C)
find_package(valley2 0.1 REQUIRED)
add_executable(chat "{example}")
target_link_libraries(chat PRIVATE valley2::valley2)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("pkg-config") is None, reason="needs pkg-config"),
]


def run(*command: str | Path, **environment: str) -> str:
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    finished = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": search, **environment},
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    return finished.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prefix")
    options = ("-DV2E_TESTS=ON", "-DV2E_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Release")
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / ".lock"):
        run("cmake", "-S", NATIVE, "-B", BUILD, "-G", "Ninja", *options)
        run("cmake", "--build", BUILD, "--target", "valley2")
        run("cmake", "--install", BUILD, "--prefix", directory)
    return directory


def answer(program: Path) -> str:
    bundle = resolve_bundle("nano")
    return run(program, bundle, bundle / "selftest" / "picture.png", "What is in the picture?")


def library_folder(prefix: Path) -> Path:
    (library,) = prefix.rglob("libvalley2.so")
    return library.parent


def test_what_is_installed(prefix: Path) -> None:
    names = {path.name for path in prefix.rglob("*") if not path.is_dir()}
    assert {"valley2.h", "valley2.pc", "valley2-config.cmake", "libvalley2.so", "libvalley2.so.0"} <= names
    assert not {"valley2_parts.h", "valley2_model_parts.h"} & set(names)
    soname = run("readelf", "-d", library_folder(prefix) / "libvalley2.so")
    assert "Library soname: [libvalley2.so.0]" in soname


def test_a_program_finds_the_library_by_pkg_config_and_by_cmake(prefix: Path, tmp_path: Path) -> None:
    folder = library_folder(prefix)
    flags = run("pkg-config", "--cflags", "--libs", "valley2", PKG_CONFIG_PATH=str(folder / "pkgconfig")).split()
    run("cc", "-std=c99", EXAMPLE, "-o", tmp_path / "chat", *flags, f"-Wl,-rpath,{folder}")
    said = answer(tmp_path / "chat")
    assert len(said) > 1

    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "CMakeLists.txt").write_text(PROJECT.format(example=EXAMPLE))
    made = tmp_path / "made"
    run("cmake", "-S", tmp_path / "project", "-B", made, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", made)
    assert answer(made / "chat") == said
