"""Compiles a C program against the core's library, with every warning an error."""

from __future__ import annotations

import subprocess
from pathlib import Path

from valley2_edge.runtime.core.library import library_path

INCLUDE = Path(__file__).resolve().parents[2] / "runtime" / "native" / "include"


def compile_program(source: Path, program: Path) -> Path:
    """Compiles and links a source of C99; the program finds the library where it lies.

    Args:
        source: The source.
        program: Where the program is to be.
    """
    library = library_path().resolve()
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wno-missing-field-initializers", "-Werror")
    command = ["cc", "-std=c99", *warnings, "-I", INCLUDE, source, "-o", program, library]
    done = subprocess.run([*command, f"-Wl,-rpath,{library.parent}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program
