"""A question to a session, as it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from valley2_edge.errors import InputError
from valley2_edge.runtime.images import ImageSource
from valley2_edge.runtime.progress import ProgressCallback
from valley2_edge.runtime.sampling import Sampling
from valley2_edge.runtime.video import VideoSource

MAX_FRAMES = 2**32 - 1
MAX_QUESTION_CHARACTERS = 1 << 20
"""More than the longest context holds, and little enough for the tokenizer's memory."""


def check_question(question: str) -> None:
    """Checks the text of a question, or of a system prompt.

    Raises:
        InputError: It is no text, too long, or holds bytes that are no text.
    """
    if not isinstance(question, str):
        raise InputError(f"The question must be text, not {type(question)}.")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise InputError(
            f"The question has {len(question)} characters, more than any context holds; at most "
            f"{MAX_QUESTION_CHARACTERS} are taken."
        )
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise InputError("The question holds bytes that are no text in UTF-8.") from error


@dataclass(frozen=True)
class Request:
    """What `Session.ask` was asked."""

    asked: str
    """As the caller wrote it."""
    text: str
    """As the model reads it."""
    images: Sequence[ImageSource]
    video: VideoSource | None
    frames: int
    sampling: Sampling
    report: ProgressCallback
