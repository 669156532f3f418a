"""Ctrl-C and SIGTERM in commands that work for minutes: one sentence, and the process is gone at once."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

from valley2_edge.cli.printable import printable
from valley2_edge.runtime.cancellation import ThreadedCall

EXIT_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# On Windows a wait without a time limit is deaf to Ctrl-C.
_WAIT_SECONDS = 0.1

Result = TypeVar("Result")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came while work ran in its thread, where it still runs: `leave` is all that may follow."""


def run_until_interrupted(work: Callable[[], Result]) -> Result:
    """Runs work of which a signal ends the process, however long its single steps take.

    Python hears signals between two of its own instructions on the main thread only, and one matrix product may take
    seconds. So the work has a thread of its own, for which nobody waits after a signal: whatever it writes must appear
    under its final name as a whole. A second signal ends the process without another word.

    Args:
        work: Runs in another thread, or in this one when this is not the main thread.

    Returns:
        What `work` returns; what it raises is raised.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; the caller must `leave`.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    # A signal handler may put something into a SimpleQueue at any time, even while this thread waits for it.
    news: queue.SimpleQueue[bool] = queue.SimpleQueue()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # Whoever started the process in the background may want a signal ignored.
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, lambda _number, _frame: news.put(True))
    call = ThreadedCall(work, lambda: news.put(False), daemon=True)
    interrupted = _next(news)
    for number in heard:
        signal.signal(number, _end if interrupted else before[number] or signal.SIG_DFL)
    if interrupted:
        raise Interrupted
    return call.get()


def leave(sentence: str, tidy: Callable[[], None] | None = None) -> NoReturn:
    """Ends the process after `Interrupted`, without waiting for what still runs.

    Args:
        sentence: What is kept and how to go on.
        tidy: Removes what is of no use any more, when the sentence is out.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.write(f"valley2-edge: {printable(sentence)}\n")
        sys.stderr.flush()
    try:
        if tidy is not None:
            tidy()
    finally:
        # The usual way out waits for native threads, or takes their memory from under them.
        os._exit(EXIT_INTERRUPTED)


def _next(news: queue.SimpleQueue[bool]) -> bool:
    while True:
        with contextlib.suppress(queue.Empty):
            return news.get(timeout=_WAIT_SECONDS)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
