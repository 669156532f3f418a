"""Makes the Python binding of the core from its headers: `python make_binding.py valley2.h ... _header.py`.

cffi reads the declarations and writes a module that opens no file and compiles nothing when it is imported. The build
runs this script; the module lies beside the Python files that use it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cffi

MODULE = "valley2_edge.runtime.core._header"
_GUARDS = ("#ifndef VALLEY2_H", "#ifndef VALLEY2_PARTS_H", "#ifndef VALLEY2_MODEL_PARTS_H")


def declarations(header: str) -> str:
    """The C declarations of a header: without directives, what stands under a condition, and export marks."""
    lines: list[str] = []
    conditions: list[bool] = []
    """For each open #if, whether it is the guard against a second inclusion, whose content counts."""
    for line in header.splitlines():
        directive = line.strip()
        if directive.startswith("#if"):
            conditions.append(directive in _GUARDS)
        elif directive.startswith("#endif"):
            conditions.pop()
        elif not directive.startswith("#") and all(conditions):
            lines.append(line.replace("V2E_API ", ""))
    return "\n".join(lines)


def main(*paths: str) -> None:
    """Writes the module, the last path, from the headers before it."""
    *headers, module = paths
    ffi = cffi.FFI()
    ffi.cdef("\n".join(declarations(Path(header).read_text(encoding="utf-8")) for header in headers))
    ffi.set_source(MODULE, None)
    ffi.emit_python_code(module)
    Path(module).touch()  # cffi leaves a file alone that is as it should be, and a build looks at the time


if __name__ == "__main__":
    main(*sys.argv[1:])
