"""Opening the files that pictures and videos come from; only regular ones are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from valley2_edge.errors import InputError
from valley2_edge.runtime.media_kind import (
    HEAD_BYTES,
    PICTURE_ENDINGS,
    URL_SENTENCE,
    VIDEO_ENDINGS,
    MediaKind,
    ending_of,
    is_address,
    kind_of,
)


def open_source(path: str | os.PathLike[str], what: str) -> BinaryIO:
    """Opens a regular file for reading.

    What was opened is looked at, not what the name said before. A FIFO or a device is refused without waiting for it.

    Args:
        path: The file.
        what: What it should be, for messages: "picture" or "video".

    Raises:
        InputError: It is missing, no regular file, an address of the network, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        advice = f": {URL_SENTENCE}" if is_address(path) else ""
        raise InputError(f"There is no {what} at {path}{advice}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        if Path(path).is_dir():
            raise InputError(f"{path} is a directory, not a {what}.") from error
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    kind = "a directory" if stat.S_ISDIR(mode) else "no regular file (a pipe, a device or a socket)"
    raise InputError(f"{path} is {kind}, not a {what}.")


def kind_of_file(path: str | os.PathLike[str]) -> MediaKind:
    """Tells what a file is by its content; by its ending where it is missing, or its content says nothing."""
    kind: MediaKind = "unknown"
    try:
        with open_source(path, "picture") as stream:
            kind = kind_of(stream.read(HEAD_BYTES))
    except (InputError, OSError):
        pass  # whoever reads it says so
    if kind != "unknown":
        return kind
    if ending_of(path) in VIDEO_ENDINGS:
        return "video"
    return "picture" if ending_of(path) in PICTURE_ENDINGS else "unknown"


def is_video(source: object) -> bool:
    """Whether a source is the path of a video, judged by the file's content, and by its ending when it is missing."""
    return isinstance(source, (str, os.PathLike)) and kind_of_file(source) == "video"
