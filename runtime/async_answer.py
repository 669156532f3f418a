"""An answer for a program that runs an event loop: a thread of its own waits for the pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class PieceSource(Protocol):
    """What `asynchronous_pieces` reads."""

    def __next__(self) -> str:
        """The next piece."""

    def close(self) -> None:
        """Ends the answer here."""


async def asynchronous_pieces(answer: PieceSource, cancel: Callable[[], None]) -> AsyncGenerator[str, None]:
    """The pieces of an answer, read in a thread while the event loop goes on.

    Args:
        answer: Nobody else reads it.
        cancel: Stops the answer; called when the task that waits for a piece is cancelled.

    Yields:
        The pieces in order. When the generator ends or is closed, the answer has ended.

    Raises:
        Valley2Error: As the answer raises it.
    """
    loop = asyncio.get_running_loop()
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="valley2-answer")
    try:
        while (piece := await loop.run_in_executor(reader, _next_piece, answer)) is not None:
            yield piece
    except asyncio.CancelledError:
        cancel()
        raise
    finally:
        # The thread is done with a piece that nobody waits for any more before it ends the answer.
        await asyncio.shield(loop.run_in_executor(reader, answer.close))
        reader.shutdown(wait=False)


def _next_piece(answer: PieceSource) -> str | None:
    """The next piece; None: there is no more, which a future cannot be told by StopIteration."""
    try:
        return answer.__next__()
    except StopIteration:
        return None
