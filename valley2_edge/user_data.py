"""The user's data directory: small files that valley2_edge keeps between runs, and how they are read and written.

`last_bundle.json` names the bundle that was exported last, `verified_files.json` holds the files whose sha256 was
computed before. Both may be deleted at any time; a broken one counts as absent. Beside them `engines/` holds what
TensorRT built, `graphs/` the ONNX graphs of vision towers, `checked_devices.json` which devices were found to compute
right, and `drivers/` what drivers of GPUs compiled. The directories are made for the user alone; a file that another
user owns or may write counts as absent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from valley2_edge.errors import InputError
from valley2_edge.outside_files import (
    decode,
    json_object,
    parse_json,
    read_stream,
)

DATA_DIRECTORY_VARIABLE = "VALLEY2_DATA_DIR"
_MOST_JSON_BYTES = 16 << 20
ABANDONED_SECONDS = 3600
"""After so long nobody writes a temporary file any more: its writer was killed."""


def data_directory() -> Path:
    """The directory that is ours: `$VALLEY2_DATA_DIR`, or else the platform's place for an application's data."""
    override = os.environ.get(DATA_DIRECTORY_VARIABLE)
    return Path(override).expanduser() if override else platformdirs.user_data_path("valley2_edge", appauthor=False)


def is_unicode(name: str) -> bool:
    """Whether a path can stand in JSON: on Linux it may hold any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def own_directory(*parts: str) -> Path:
    """A directory inside the data directory, made for the user alone where it is missing.

    Raises:
        OSError: It cannot be made, it is a link, or it belongs to another user.
    """
    path = data_directory()
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    for part in parts:
        path /= part
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
            raise PermissionError(errno.EPERM, "is not a directory of this user's own", str(path))
        if _others_may_write(status):
            path.chmod(0o700)
    return path


def open_own_file(path: Path) -> BinaryIO:
    """Opens a file that this user alone may have written.

    Raises:
        OSError: It is missing, a link, no regular file, or another user owns it or may write it.
    """
    # Without waiting: a pipe under that name would never answer.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status) or _others_may_write(status):
            raise PermissionError(errno.EPERM, "is not a file of this user's own", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_own_json(path: Path) -> dict[str, Any]:
    """A small JSON file of ours; empty when it is missing, broken, too large or not ours."""
    try:
        with open_own_file(path) as stream:
            text = decode(read_stream(stream, path, _MOST_JSON_BYTES, InputError), str(path), InputError)
        return json_object(parse_json(text, str(path), InputError), path, InputError)
    except (OSError, InputError):
        return {}


def write_own_file(path: Path, *parts: bytes) -> None:
    """Replaces a file as a whole: a reader sees the old content or the new, never a part.

    Args:
        path: The file to replace, in a directory that is there.
        parts: Its content, one after the other.

    Raises:
        OSError: It cannot be written; the old file is still there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_abandoned(directory: Path) -> None:
    """Removes what writers that were killed have left in a directory: files and folders whose names begin with a dot.

    Args:
        directory: A directory of ours.
    """
    for left in directory.glob(".*"):
        with contextlib.suppress(OSError):
            status = left.lstat()
            if time.time() - status.st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left) if stat.S_ISDIR(status.st_mode) else left.unlink()


def remove_directory(directory: Path) -> tuple[int, int]:
    """Removes a directory of ours with all that is in it; links in it are removed and not followed.

    Args:
        directory: It may be missing.

    Returns:
        How many files there were, and their bytes.

    Raises:
        OSError: Something cannot be removed, or the directory is a link.
    """
    statuses = [path.lstat() for path in directory.rglob("*")]
    files = [status for status in statuses if not stat.S_ISDIR(status.st_mode)]
    if directory.is_dir():
        shutil.rmtree(directory)
    return len(files), sum(status.st_size for status in files)


def write_own_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a JSON file of the data directory as a whole.

    Raises:
        OSError: It cannot be written.
    """
    own_directory()
    write_own_file(path, json.dumps(content, indent=1).encode())


def _is_ours(status: os.stat_result) -> bool:
    """Whether this user or the machine's administrator owns a file; true where files have no such owners."""
    return not hasattr(os, "geteuid") or status.st_uid in (os.geteuid(), 0)


def _others_may_write(status: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
