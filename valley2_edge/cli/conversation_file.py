"""Files of saved conversations: where one may be written, and whether a file is one."""

from __future__ import annotations

import os
from pathlib import Path

from valley2_edge.errors import InputError
from valley2_edge.outside_files import open_regular

_HEAD = b'{"__metadata__"'


def check_target(path: Path, name: str) -> None:
    """Refuses a place where no conversation can be saved, or where one would take another file's place."""
    parent = path.absolute().parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{name} cannot be written: name a file in a directory that is there and yours")
    if path.exists() and not (path.is_file() and is_conversation(path)):
        raise InputError(f"{name} is another file, which would be lost: name a new one, or a saved conversation")


def is_conversation(path: Path) -> bool:
    """Whether a file begins as a saved conversation does, with a length and safetensors' header, or is empty."""
    with open_regular(path, InputError) as stream:
        head = stream.read(8 + len(_HEAD))
    return not head or head[8:] == _HEAD
