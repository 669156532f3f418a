"""One writer at a time: a lock beside an output, which the system gives back when its process ends in whatever way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from valley2_edge.errors import ExportError


@contextlib.contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Holds `.NAME.lock` beside an output while it is made.

    Args:
        output: The file or directory that is made; its folder is made where it is missing.

    Raises:
        ExportError: Another process makes it.
        OSError: The folder cannot be written.
    """
    path = output.with_name(f".{output.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ExportError(
            f"{output} is being written by another process: wait until that has ended, or choose another output"
        ) from None
    try:
        yield
    finally:
        # While it is still held, so that nobody's new lock is removed; Windows, which removes no open file, keeps it.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
