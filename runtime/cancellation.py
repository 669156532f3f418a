"""Stopping a call from another thread or with Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from valley2_edge.errors import Cancelled

Result = TypeVar("Result")

# Linux wakes the waiting main thread for a signal. Windows wakes no wait, and macOS may hand the signal to another
# thread: there it is heard at the next turn of the loop.
_WAIT_SECONDS = 0.02


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


class ThreadedCall(Generic[Result]):
    """A call in a helper thread, which begins at once, and what became of it.

    Args:
        call: The work.
        ended: Called in the helper thread when the work is over.
        daemon: Whether the interpreter may end before the work does.
    """

    def __init__(
        self, call: Callable[[], Result], ended: Callable[[], None] = lambda: None, *, daemon: bool = False
    ) -> None:
        self.done = threading.Event()
        """Set when the work is over."""
        self._call = call
        self._ended = ended
        self._result: Result
        self._error: BaseException | None = None
        self.helper = threading.Thread(target=self._work, name="valley2-work", daemon=daemon)
        self.helper.start()

    def _work(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # handed to the waiting thread, whatever it is
            self._error = error
        finally:
            self.done.set()
            self._ended()

    def get(self) -> Result:
        """What the call returned; what it raised is raised."""
        if self._error is not None:
            raise self._error
        return self._result


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
    # Not a daemon: the interpreter must not vanish under a native call.
    outcome = ThreadedCall(call)
    try:
        while not outcome.done.wait(_WAIT_SECONDS):
            pass
    except BaseException:
        stop()
        outcome.helper.join()
        raise
    outcome.helper.join()
    return outcome.get()


def run_until_cancelled(
    call: Callable[[], Result], token: CancelToken, stop: Callable[[], None], *, ends_soon: bool = True
) -> Result:
    """Runs a native call that ends late when it is stopped; after a cancel or Ctrl-C nobody waits for it.

    It goes on in its helper thread until it hears `stop`, and keeps what it works on until then. It must hold no lock.

    Args:
        call: The work; nobody may mind that it is still being done after a cancel.
        token: Ends the wait.
        stop: Makes `call` end as soon as it can; called when the wait is over before it.
        ends_soon: The program waits for the call when it ends, which work in C++ needs: a thread that the interpreter
            stops there takes the process with it. A decoder of pictures, which hears nothing, is not waited for.

    Returns:
        What `call` returns; what it raises is raised.

    Raises:
        Cancelled: The token was set.
    """
    woken = threading.Event()
    with token.stopping(woken.set):
        outcome = ThreadedCall(call, woken.set, daemon=not ends_soon)
        try:
            while not outcome.done.is_set():
                woken.wait(_WAIT_SECONDS)
                woken.clear()
                if not outcome.done.is_set():
                    token.check()
        except BaseException:
            stop()
            raise
    return outcome.get()
