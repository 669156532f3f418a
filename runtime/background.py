"""Work that cannot be interrupted, done where nobody has to wait for its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from valley2_edge.runtime.cancellation import CancelToken

Result = TypeVar("Result")

_WAIT_SECONDS = 0.02


def run_abandonable(
    work: Callable[[CancelToken], Result], cancel: CancelToken | None = None, *, ends_soon: bool = False
) -> Result:
    """Runs work in a thread of its own, and leaves it alone when the caller cancels or Ctrl-C comes.

    Decoders of pictures know no cancel. A thread that was left ends at its next look at the token that it was given;
    it must hold no lock meanwhile.

    Args:
        work: Given a token of its own, which is set when nobody waits any more.
        cancel: The caller's.
        ends_soon: The work looks at its token often. The program then waits for it when it ends, which work in C++
            needs: a thread that the interpreter stops there takes the process with it.

    Returns:
        What `work` returns; what it raises is raised.

    Raises:
        Cancelled: The caller's token was set.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()
    abandoned = CancelToken()

    def run() -> None:
        try:
            results.append(work(abandoned))
        except BaseException as error:  # handed to the waiting thread, whatever it is
            errors.append(error)
        finally:
            done.set()

    if cancel is not None:
        cancel.check()
    # Leaving the program must not wait for a decoder that hears nothing.
    threading.Thread(target=run, name="valley2-decode", daemon=not ends_soon).start()
    try:
        while not done.wait(_WAIT_SECONDS):
            if cancel is not None:
                cancel.check()
    except BaseException:
        abandoned.cancel()
        raise
    if errors:
        raise errors[0]
    return results[0]
