"""What a model is asked to predict: windows of a plain text, and answers to prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from valley2_edge.errors import InputError
from valley2_edge.outside_files import read_text
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.media.images import ImageSource
from valley2_edge.text_limits import MAX_TEXT_CHARACTERS

START_OF_DOCUMENT = "<|endoftext|>"
"""The control token that Qwen2.5 saw before every document while it was trained."""
WINDOW_TOKENS = 512
"""Tokens of a window unless the caller says how many, the token that it begins with included."""
MAX_TEXT_BYTES = 64 << 20
"""The largest plain text."""

_PIECE_CHARACTERS = 1 << 16
"""The tokenizer needs 150 bytes of memory for a character, so a text goes through it in pieces of about this size."""
# The tokenizer cuts between a line's end and a line that does not begin with white space, so that no token is lost.
_CUT = re.compile(r"(?<=\n)(?=\S)")


@dataclass(frozen=True)
class Window:
    """A part of a plain text."""

    before: tuple[int, ...]
    """The token that the window begins with, which is not predicted."""
    tokens: tuple[int, ...]
    """The tokens to be predicted."""


@dataclass(frozen=True)
class Dialogue:
    """A prompt, with pictures perhaps, and the answer whose tokens are to be predicted."""

    name: str
    """What messages call it, for example "line 7"."""
    prompt: str
    answer: str
    images: tuple[ImageSource, ...] = ()
    video: str | Path | tuple[ImageSource, ...] | None = None


Passage = Window | Dialogue


def read_plain_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: The file is missing, empty, no regular file, no UTF-8, or larger than 64 MiB.
    """
    text = read_text(path, MAX_TEXT_BYTES, InputError)
    if not text.strip():
        raise InputError(f"{path} has no text.")
    return text


def windows_of(text: str, tokenizer: Tokenizer, size: int = WINDOW_TOKENS, limit: int | None = None) -> list[Window]:
    """Cuts a text into windows that a model sees one by one.

    Each begins with the tokenizer's start-of-document token, and every token of the text is predicted in exactly one of
    them. A tokenizer without such a token begins a window with the last token of the window before, so that the text's
    very first token is not predicted. The last window may be shorter.

    Args:
        text: As it is in its file; what looks like a control token is plain text.
        tokenizer: The bundle's.
        size: Tokens of a window with the one that it begins with, at least 2.
        limit: Most windows, which are then spread evenly over the text; None takes all.

    Raises:
        InputError: The text has fewer than 2 tokens, a line of more than 2^20 characters, or a number is out of range.
    """
    if size < 2:
        raise InputError(f"A window needs at least 2 tokens, not {size}.")
    if limit is not None and limit < 1:
        raise InputError(f"At least 1 window must be measured, not {limit}.")
    ids = [token for piece in _pieces(text) for token in tokenizer.encode_text(piece)]
    if len(ids) < 2:
        raise InputError(f"The text has {len(ids)} token; at least 2 are needed to predict one from another.")
    start = tokenizer.find_control(START_OF_DOCUMENT)
    first = 0 if start is not None else 1  # the place of the first token that is predicted
    places = range(first, len(ids), size - 1)
    if limit is not None and limit < len(places):
        places_chosen = [places[index * len(places) // limit] for index in range(limit)]
    else:
        places_chosen = list(places)
    return [
        Window((ids[place - 1] if start is None else start,), tuple(ids[place : place + size - 1]))
        for place in places_chosen
    ]


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces, whose tokens together are those of the whole."""
    begin = 0
    while begin < len(text):
        found = _CUT.search(text, begin + _PIECE_CHARACTERS)
        end = len(text) if found is None else found.start()
        if end - begin > MAX_TEXT_CHARACTERS:
            raise InputError(f"The text has {end - begin:,} characters without a line's end; break it into lines.")
        yield text[begin:end]
        begin = end
