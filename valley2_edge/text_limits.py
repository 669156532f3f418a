"""What text may be that a tokenizer is given."""

from __future__ import annotations

from valley2_edge.errors import InputError

MAX_TEXT_CHARACTERS = 1 << 20
"""More than the longest context holds, and little enough for the tokenizer's memory."""


def check_text(text: str, what: str = "The question") -> None:
    """Checks the text of a question, or of a system prompt.

    Args:
        text: The text as the caller wrote it.
        what: What messages call it.

    Raises:
        InputError: It is no text, too long, or holds bytes that are no text.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be text, not {type(text)}.")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InputError(
            f"{what} has {len(text)} characters, more than any context holds; {MAX_TEXT_CHARACTERS} at most are taken."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} holds bytes that are no text in UTF-8.") from error
