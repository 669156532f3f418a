"""How a Matroska or WebM file says that its frames are turned and mirrored (RFC 9559, 5.1.4.1.28.41)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO

_SEGMENT, _TRACKS, _ENTRY, _TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_PROJECTION, _YAW, _PITCH, _ROLL = 0x7670, 0x7673, 0x7674, 0x7675
_VIDEO_TYPE = 1
_MOST_ELEMENTS = 10_000


def pose_matrix(stream: BinaryIO) -> tuple[float, float, float, float] | None:
    """The matrix of the first video track's pose, as `display_matrix.Matrix`; None: there is no such track.

    As FFmpeg reads it: a roll turns, a yaw of half a turn mirrors, every other pose is for spheres and turns nothing.

    Args:
        stream: The file; its position changes.
    """
    size = stream.seek(0, 2)
    for segment, begin, end in _elements(stream, 0, size):
        if segment == _SEGMENT:
            for kind, tracks_begin, tracks_end in _elements(stream, begin, end):
                if kind == _TRACKS:
                    return _matrix_of_tracks(stream, tracks_begin, tracks_end)
    return None


def _matrix_of_tracks(stream: BinaryIO, begin: int, end: int) -> tuple[float, float, float, float] | None:
    for kind, entry_begin, entry_end in _elements(stream, begin, end):
        if kind != _ENTRY:
            continue
        parts = {part: (place, stop) for part, place, stop in _elements(stream, entry_begin, entry_end)}
        if _TYPE not in parts or _bytes(stream, *parts[_TYPE])[-1:] != bytes([_VIDEO_TYPE]):
            continue
        yaw, pitch, roll = _pose(stream, *parts[_VIDEO]) if _VIDEO in parts else (0.0, 0.0, 0.0)
        if pitch != 0 or abs(yaw) not in (0, 180) or not math.isfinite(roll):
            return (1.0, 0.0, 0.0, 1.0)
        cosine, sine = math.cos(math.radians(roll)), math.sin(math.radians(roll))
        return (-cosine, sine, sine, cosine) if yaw else (cosine, -sine, sine, cosine)
    return None


def _pose(stream: BinaryIO, begin: int, end: int) -> tuple[float, float, float]:
    angles = dict.fromkeys((_YAW, _PITCH, _ROLL), 0.0)
    for kind, projection_begin, projection_end in _elements(stream, begin, end):
        if kind == _PROJECTION:
            for part, place, stop in _elements(stream, projection_begin, projection_end):
                form = {4: ">f", 8: ">d"}.get(stop - place)
                content = _bytes(stream, place, stop)
                if part in angles and form is not None and len(content) == stop - place:
                    (angles[part],) = struct.unpack(form, content)
    return angles[_YAW], angles[_PITCH], angles[_ROLL]


def _bytes(stream: BinaryIO, begin: int, end: int) -> bytes:
    stream.seek(begin)
    return stream.read(min(end - begin, 8))


def _elements(stream: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Identifiers, and the places of the contents' begins and ends; a content of unknown length goes to the end."""
    for _ in range(_MOST_ELEMENTS):
        stream.seek(begin)
        header = stream.read(12)
        identifier_length = _length_of(header[:1])
        size_length = _length_of(header[identifier_length : identifier_length + 1])
        if begin >= end or not 1 <= identifier_length <= 4 or size_length == 0:
            return
        content = identifier_length + size_length
        size = int.from_bytes(header[identifier_length:content], "big") & ((1 << 7 * size_length) - 1)
        unknown = size == (1 << 7 * size_length) - 1
        stop = end if unknown else min(begin + content + size, end)
        yield int.from_bytes(header[:identifier_length], "big"), begin + content, stop
        begin = stop


def _length_of(first: bytes) -> int:
    """Bytes of a number by its first one: one more than its leading zero bits; 0: it is none."""
    return 9 - first[0].bit_length() if first and first[0] else 0
