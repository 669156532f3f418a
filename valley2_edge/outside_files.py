"""The one reader of files that somebody else wrote: bundles, checkpoints, question files, the user's own memory.

Every such file is a regular file of a bounded size. Text is UTF-8, with or without a byte order mark. JSON is read as
the native core reads it: no key twice, no NaN or infinity, no deep nesting, no half of a surrogate pair. Whatever is
wrong is said in one sentence that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from valley2_edge.errors import Valley2Error

MAX_JSON_BYTES = 4 << 20
"""The largest file of settings: a manifest, a config, a note."""
MAX_JSON_VALUES = 200_000
"""Most values in a file of settings; each takes up to a hundred bytes of memory."""
MAX_JSON_DEPTH = 64
"""Most arrays and objects inside one another, as in the native core."""
MAX_DIGITS = 100
"""The longest whole number. Tokenizers' files hold 10^30 for "no limit"."""
MAX_LINE_BYTES = 1 << 20
"""The longest line with a question or a calibration sample."""
MAX_LINES_BYTES = 256 << 20
"""The largest file of questions or calibration samples."""

ErrorType = type[Valley2Error]

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 80
_MAX_NAME = 512
_CLOCK_TICK_NS = 20_000_000
"""How far apart two writes must be for every usual file system to give them different times."""


@dataclass(frozen=True)
class FileStamp:
    """What the file system says about an open file; any write to the file changes it, and another file has another."""

    device: int
    inode: int
    size: int
    """Size of the file in bytes."""
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: int | Path) -> FileStamp:
        """Stamp of a descriptor, or of what a path leads to now.

        Raises:
            OSError: There is no such file.
        """
        status = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def shown(value: object) -> str:
    """A stranger's value for a message: quoted, without control characters, and short."""
    text = repr(value) if not isinstance(value, str) else repr(value[: _SHOWN + 1])
    return text if len(text) <= _SHOWN + 2 else text[:_SHOWN] + "..."


def check_file_name(name: str) -> str:
    """The name, if a person can read it: one line, without control characters.

    Raises:
        ValueError: It is not.
    """
    if not name.isprintable() or len(name) > _MAX_NAME:
        raise ValueError("this is no name of a file")
    return name


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file; a path that no system takes, however long, is none."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Whether there is a directory; a path that no system takes is none."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def open_regular(path: str | os.PathLike[str], error: ErrorType, what: str = "file") -> BinaryIO:
    """Opens a regular file for reading, without waiting for a pipe and without starting a device.

    Args:
        path: The file; links are followed.
        error: Class of the error to raise.
        what: What it should be, for messages.

    Raises:
        Valley2Error: There is no such file, it cannot be opened, or it is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as reason:
        raise error(f"There is no {what} at {path}.") from reason
    except (OSError, ValueError) as reason:
        # An Exception of Windows for a directory; ValueError for a name with a NUL.
        if is_directory(path):
            raise error(f"{path} is a directory, not a {what}.") from reason
        raise error(f"{path} cannot be read: {getattr(reason, 'strerror', None) or reason}.") from reason
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise error(f"{path} is {kind}, not a {what}.")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | os.PathLike[str], limit: int, error: ErrorType) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        limit: Most bytes to read.
        error: Class of the error to raise.

    Raises:
        Valley2Error: The file is missing, no regular file, larger, or cannot be read.
    """
    with open_regular(path, error) as stream:
        return read_stream(stream, path, limit, error)


def read_stream(stream: BinaryIO, path: str | os.PathLike[str], limit: int, error: ErrorType) -> bytes:
    """The rest of an open file; as `read_bytes`."""
    try:
        content = stream.read(limit + 1)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    if len(content) > limit:
        raise error(f"{path} is larger than {limit:,} bytes, the most that such a file may have")
    return content


def read_text(path: str | os.PathLike[str], limit: int, error: ErrorType) -> str:
    """The text of a regular file in UTF-8, without a byte order mark.

    Raises:
        Valley2Error: The file cannot be read, is too large, or is no UTF-8.
    """
    return decode(read_bytes(path, limit, error), str(path), error)


def decode(content: bytes, where: str, error: ErrorType) -> str:
    """Bytes as text, without a byte order mark.

    Raises:
        Valley2Error: They are no UTF-8; the text names the line.
    """
    if content[:2] in _UTF16_MARKS or b"\0" in content[:2]:
        raise error(f"{where} is not UTF-8 but UTF-16 or UTF-32: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        place = f"{where}, line {line}" if b"\n" in content else where
        raise error(f"{place}: the text is not UTF-8 ({reason.reason}): save it as UTF-8") from reason


def text_lines(path: str | os.PathLike[str], error: ErrorType) -> Iterator[tuple[int, str]]:
    """The numbered lines of a text file, one in memory at a time; empty ones are left out.

    Raises:
        Valley2Error: The file is missing, no regular file, no UTF-8, or larger than a limit.
    """
    number = 0
    with open_regular(path, error) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_LINES_BYTES:
            raise error(f"{path} has {size:,} bytes; a file of lines may have {MAX_LINES_BYTES:,}: split it")
        while line := stream.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise error(f"{path}, line {number + 1} is longer than {MAX_LINE_BYTES:,} bytes, the most that is read")
            # A lone carriage return ends a line too, as in every text file that Python opens.
            for piece in line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
                number += 1
                text = decode(piece, str(path) if number == 1 else f"{path}, line {number}", error)
                if text.strip():
                    yield number, text


def read_json(
    path: str | os.PathLike[str],
    error: ErrorType,
    *,
    limit: int = MAX_JSON_BYTES,
    max_values: int = MAX_JSON_VALUES,
) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: The file.
        error: Class of the error to raise.
        limit: Most bytes to read.
        max_values: Values at most, however small.

    Raises:
        Valley2Error: The file cannot be read, is no JSON, or holds no object.
    """
    return json_object(parse_json(read_text(path, limit, error), str(path), error, max_values=max_values), path, error)


def json_object(value: Any, where: object, error: ErrorType) -> dict[str, Any]:
    """The value, if it is an object.

    Raises:
        Valley2Error: It is not.
    """
    if not isinstance(value, dict):
        raise error(f"{where} holds no JSON object")
    return value


def parse_json(text: str, where: str, error: ErrorType, *, max_values: int = MAX_JSON_VALUES) -> Any:
    """Reads JSON strictly (RFC 8259).

    Args:
        text: The JSON.
        where: The file, for messages.
        error: Class of the error to raise.
        max_values: Most values that are accepted.

    Raises:
        Valley2Error: It is no JSON, or breaks one of the rules that this module's docstring names.
    """
    if text.count(",") + text.count("[") + text.count("{") > max_values:
        raise error(f"{where} holds more than {max_values:,} values, the most that such a file may have")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_fraction
        )
        _check_depth(value)
        _check_pairs(text, value)
    except json.JSONDecodeError as reason:
        line = f"line {reason.lineno}, " if "\n" in text else ""
        raise error(f"{where} is not readable JSON: {line}column {reason.colno}: {reason.msg}") from reason
    except (ValueError, RecursionError) as reason:
        said = reason if isinstance(reason, ValueError) else f"it is nested more than {MAX_JSON_DEPTH} levels deep"
        raise error(f"{where} is not readable JSON: {said}") from reason
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return result


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"the number {shown(digits)} is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def _check_pairs(text: str, value: Any) -> None:
    if _HALF_PAIR.search(text) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as reason:
        raise ValueError("a text has half of a surrogate pair, which is no character") from reason


def hash_file(path: Path, error: ErrorType, progress: Callable[[int], None] | None = None) -> tuple[str, FileStamp]:
    """Hashes a regular file with bounded memory.

    Args:
        path: The file.
        error: Class of the error to raise.
        progress: Called with the number of bytes of each piece that was read.

    Returns:
        The hash, and the stamp that the open file had before and after it was read.

    Raises:
        Valley2Error: The file cannot be read, or changed meanwhile.
    """
    digest = hashlib.sha256()
    with open_regular(path, error) as stream:
        stamp = FileStamp.of(stream.fileno())
        left = stamp.size
        try:
            # A file that grows as fast as it is read would never end.
            while left >= 0 and (piece := stream.read(1 << 22)):
                left -= len(piece)
                digest.update(piece)
                if progress is not None:
                    progress(len(piece))
        except OSError as reason:
            raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
        if FileStamp.of(stream.fileno()) != stamp:
            raise error(f"{path} changed while it was read; try again when nothing writes to it")
    return digest.hexdigest(), stamp


def wait_out_clock(stamp: FileStamp) -> None:
    """Waits until a write to the file would change its stamp: the clock of a file system ticks slowly."""
    age = time.time_ns() - stamp.ctime_ns
    if 0 <= age < _CLOCK_TICK_NS:
        time.sleep((_CLOCK_TICK_NS - age) / 1e9)
