"""Stopping a call from another thread or with Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from valley2_edge.errors import Cancelled

Result = TypeVar("Result")

# On Windows a wait without a time limit is deaf to Ctrl-C.
_WAIT_SECONDS = 0.1


class CancelToken:
    """A flag that one thread sets and another obeys; legal to set from any thread at any time."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may cancel while this very thread holds the lock.
        self._lock = threading.RLock()
        self._set = False
        self._stops: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Stops what runs under the token, and everything after it until `clear`."""
        with self._lock:
            self._set = True
            for stop in self._stops:
                stop()

    def clear(self) -> None:
        """Allows work again."""
        with self._lock:
            self._set = False

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called since the last `clear`."""
        return self._set

    def check(self) -> None:
        """Raises Cancelled when the flag is set."""
        if self._set:
            raise Cancelled("The answer was cancelled.")

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Registers, for the length of a block, how to stop what runs in it.

        Raises:
            Cancelled: The flag is set already.
        """
        with self._lock:
            self.check()
            self._stops.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)


class _Outcome(Generic[Result]):
    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Result
        self.error: BaseException | None = None


def run_interruptibly(call: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """Runs a long native call so that Ctrl-C is heard while it runs.

    Python hears signals only between two of its own instructions, on the main thread. There, the call runs in a helper
    thread while this one waits; on any other thread it simply runs.

    Args:
        call: The work.
        stop: Makes `call` end soon; called when the wait is interrupted.

    Returns:
        What `call` returns; what it raises is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome: _Outcome[Result] = _Outcome()

    def work() -> None:
        try:
            outcome.result = call()
        except BaseException as error:  # handed to the waiting thread, whatever it is
            outcome.error = error
        finally:
            outcome.done.set()

    # Not a daemon: the interpreter must not vanish under a native call.
    helper = threading.Thread(target=work, name="valley2-work")
    helper.start()
    try:
        while not outcome.done.wait(_WAIT_SECONDS):
            pass
    except BaseException:
        stop()
        helper.join()
        raise
    helper.join()
    if outcome.error is not None:
        raise outcome.error
    return outcome.result
