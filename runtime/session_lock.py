"""Who may work on a session: one thread at a time, and never a callback of its own answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from valley2_edge.errors import InputError
from valley2_edge.runtime.progress import ProgressCallback


class SessionLock:
    """Lets one thread at a time work on a session, and refuses the callbacks of that work instead of deadlocking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._in_callback: int | None = None

    @contextmanager
    def held(self, wait: bool = True) -> Iterator[None]:
        """Holds the session for a block.

        Args:
            wait: Whether to wait for another thread instead of failing.

        Raises:
            InputError: A callback of the session's own answer asks, or with wait=False another thread has it.
        """
        if threading.get_ident() in (self._owner, self._in_callback):
            raise InputError("The session answers one at a time, and callbacks of its answer can only cancel.")
        if not self._lock.acquire(blocking=wait):
            raise InputError("Another thread is iterating an answer of this session; a session answers one at a time.")
        try:
            self._owner = threading.get_ident()
            yield
        finally:
            self._owner = None
            self._lock.release()

    def calling(self, report: ProgressCallback) -> ProgressCallback:
        """The callback, known as one while it runs: it may run in a helper thread that the holder waits for."""

        def call(stage: str, done: int, total: int) -> None:
            before, self._in_callback = self._in_callback, threading.get_ident()
            try:
                report(stage, done, total)
            finally:
                self._in_callback = before

        return call
