"""The standard streams as a shell may leave them: closed, full, without a reader, or with more than anybody types."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO, TextIO

from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import InputError
from valley2_edge.runtime.media.media_kind import HEAD_BYTES, MediaKind, foreign_reason, kind_of
from valley2_edge.text_limits import MAX_TEXT_CHARACTERS, check_text

MAX_STDIN_BYTES = 256 << 20
"""The largest picture that is read from stdin."""


def plug_closed_streams() -> None:
    """Puts the null device where a standard stream is closed, so that no file of ours gets its number.

    A file that was opened as descriptor 2 would receive whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(2, "w")  # noqa: SIM115  (a descriptor, for the rest of the process)


def abandon_output() -> None:
    """Sends what cannot be written to the null device, so that the interpreter's end says nothing about it."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if not _is_sound(stream):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(null, stream.fileno())
    os.close(null)


def _is_sound(stream: TextIO) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def accept_all_bytes() -> None:
    """Lets stdin give bytes that are no text as such, so that one bad line does not take the lines after it away."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def read_text_line(stream: IO[str]) -> str | None:
    """Reads the next line; `accept_all_bytes` was called before.

    Returns:
        The line, or None at the end of the input.

    Raises:
        InputError: The line is too long or not text; the next call reads the line after it.
    """
    line = stream.readline(MAX_TEXT_CHARACTERS + 1)
    if len(line) > MAX_TEXT_CHARACTERS:
        while not line.endswith("\n") and line:
            line = stream.readline(MAX_TEXT_CHARACTERS)
        raise InputError(f"a line of more than {MAX_TEXT_CHARACTERS} characters is not read")
    check_text(line, "The line")
    return line.removeprefix("\ufeff") or None


def read_stdin() -> bytes | str:
    """Reads all of stdin: an encoded picture as bytes, anything else as text.

    Raises:
        InputError: stdin is closed, too long, empty, a video, or neither a picture nor text.
    """
    if sys.stdin is None:
        raise InputError("stdin is closed, so - names nothing")
    content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(content) > MAX_STDIN_BYTES:
        raise InputError(f"stdin holds more than {format_bytes(MAX_STDIN_BYTES)}")
    head = content[:HEAD_BYTES]
    kind: MediaKind = kind_of(head)
    if kind == "video":
        raise InputError("stdin holds a video, which is read from a file only: save it and name the file")
    if kind == "foreign":
        raise InputError(f"stdin: {foreign_reason(head)}")
    if kind != "unknown":
        return content
    return _decoded(content)


def _decoded(content: bytes) -> str:
    if len(content) > MAX_TEXT_CHARACTERS:
        raise InputError(f"stdin holds {format_bytes(len(content))}, too much for a question, and is no known picture")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("stdin holds neither a picture nor text in UTF-8") from error
    if not text.strip():
        raise InputError("stdin is empty, so there is no question")
    return text.strip()
