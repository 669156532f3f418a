"""Opening the files that pictures and videos come from; only regular ones are read."""

from __future__ import annotations

import os
from typing import BinaryIO

from valley2_edge.errors import InputError
from valley2_edge.outside_files import open_regular
from valley2_edge.runtime.media.media_kind import (
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
    """Opens a regular file for reading, as `open_regular` does, and knows an address of the network when it sees one.

    Args:
        path: The file.
        what: What it should be, for messages: "picture" or "video".

    Raises:
        InputError: It is missing, no regular file, an address of the network, or cannot be read.
    """
    try:
        return open_regular(path, InputError, what)
    except InputError as error:
        if not is_address(path):
            raise
        raise InputError(f"There is no {what} at {path}: {URL_SENTENCE}.") from error


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
