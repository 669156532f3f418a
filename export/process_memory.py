"""How much memory this process uses, and a budget for it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from valley2_edge.errors import InputError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TYPICAL_BYTES = 600 << 20
"""Of an interpreter with torch, where the system does not tell."""


def parse_bytes(text: str) -> int:
    """A number of bytes: "8GiB", "8G", "500 MB", all powers of 1024.

    Raises:
        InputError: It is none, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if size < 1:
        raise InputError(f"{text!r} is no amount of memory: write for example 8GiB.")
    return size


def resident_bytes() -> int:
    """Memory of this process now."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return _TYPICAL_BYTES
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(match.group(1)) << 10 if match else _TYPICAL_BYTES


def peak_bytes() -> int:
    """The most memory that this process has had; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage << 10
