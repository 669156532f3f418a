"""A command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def start(words: Sequence[object], directory: Path) -> subprocess.Popen[str]:
    """Starts `valley2-edge` with pipes for its three streams."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "valley2_edge", *map(str, words)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=directory)
