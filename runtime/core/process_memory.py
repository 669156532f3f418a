"""How much memory this process uses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.library import library

_INTERPRETER_BYTES = 64 << 20
"""Memory of Python with numpy, assumed where the system does not tell."""
_TORCH_BYTES = 600 << 20
"""The same with torch."""


def resident_bytes() -> int:
    """Memory of this process now; a typical amount where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        status = ""
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    if match is None:
        return _TORCH_BYTES if "torch" in sys.modules else _INTERPRETER_BYTES
    return int(match.group(1)) << 10


def peak_bytes() -> int | None:
    """The most memory that this process has had; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def trim_heap() -> None:
    """Gives the system back what the process's allocator keeps of freed memory.

    Raises:
        Valley2Error: The native library is missing or belongs to another release.
    """
    library().v2e_decoder_trim(ffi.NULL)
