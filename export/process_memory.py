"""How much memory this process uses, and a budget for it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_TYPICAL_BYTES = 600 << 20
"""Of an interpreter with torch, where the system does not tell."""


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
