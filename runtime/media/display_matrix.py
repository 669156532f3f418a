"""How a video file says that its frames are turned and mirrored for display."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from valley2_edge.runtime.media.matroska import pose_matrix

_MOST_BOXES = 10_000
_LARGEST_HEADER = 256
Box = tuple[bytes, int, int]
"""Type, and the places of the content's begin and end in the file."""
Matrix = tuple[float, float, float, float]
"""a, b, c, d: the pixel in column p and row q is shown at column a p + c q and row b p + d q."""


@dataclass(frozen=True)
class Turning:
    """A quarter turn or a mirroring: first rows and columns change places, then the axes are reversed."""

    transposed: bool = False
    mirrored: bool = False
    """Whether the picture is mirrored from left to right."""
    flipped: bool = False
    """Whether the picture is mirrored from top to bottom."""

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turns (height, width, 3) pixels."""
        turned = pixels.swapaxes(0, 1) if self.transposed else pixels
        return turned[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def turning_of(stream: BinaryIO) -> Turning | None:
    """The turning of the first video track of an MP4, QuickTime, 3GP, Matroska or WebM file.

    Args:
        stream: The file; its position changes.

    Returns:
        None: The file is of another kind, or has no such track. Angles between quarter turns count as no turn.
    """
    stream.seek(0)
    matroska = stream.read(4) == b"\x1a\x45\xdf\xa3"
    matrix = pose_matrix(stream) if matroska else _movie_matrix(stream)
    return None if matrix is None else _turning(matrix)


def _movie_matrix(stream: BinaryIO) -> Matrix | None:
    """The track's matrix, then the movie's (ISO 14496-12, 8.2.2 and 8.3.2)."""
    size = stream.seek(0, 2)
    for kind, begin, end in _boxes(stream, 0, size):
        if kind != b"moov":
            continue
        movie: Matrix = (1.0, 0.0, 0.0, 1.0)
        for part, part_begin, part_end in _boxes(stream, begin, end):
            if part == b"mvhd":
                movie = _matrix(stream, part_begin, 36, 48) or movie
            elif part == b"trak" and _is_video_track(stream, part_begin, part_end):
                return _product(_track_matrix(stream, part_begin, part_end), movie)
    return None


def _turning(matrix: Matrix) -> Turning:
    a, b, c, d = matrix
    straight, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight > 16 * max(abs(b), abs(c)):
        return Turning(mirrored=a < 0, flipped=d < 0)
    if across > 16 * max(abs(a), abs(d)):
        return Turning(transposed=True, mirrored=c < 0, flipped=b < 0)
    return Turning()


def _product(first: Matrix, second: Matrix) -> Matrix:
    """The matrix that does first, then second."""
    a, b, c, d = first
    e, f, g, h = second
    return (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)


def _is_video_track(stream: BinaryIO, begin: int, end: int) -> bool:
    for kind, media_begin, media_end in _boxes(stream, begin, end):
        if kind == b"mdia":
            for part, part_begin, _ in _boxes(stream, media_begin, media_end):
                if part == b"hdlr":
                    stream.seek(part_begin + 8)
                    return stream.read(4) == b"vide"
    return False


def _track_matrix(stream: BinaryIO, begin: int, end: int) -> Matrix:
    for kind, header_begin, _ in _boxes(stream, begin, end):
        if kind == b"tkhd":
            return _matrix(stream, header_begin, 40, 52) or (1.0, 0.0, 0.0, 1.0)
    return (1.0, 0.0, 0.0, 1.0)


def _matrix(stream: BinaryIO, begin: int, offset: int, long_offset: int) -> Matrix | None:
    """Reads a header whose version says how wide its times are; (a b u, c d v, x y w), all zero in some old files."""
    stream.seek(begin)
    header = stream.read(_LARGEST_HEADER)
    place = long_offset if header[:1] == b"\1" else offset
    if len(header) < place + 20:
        return None
    a, b, _, c, d = (value / 65536 for value in struct.unpack_from(">5i", header, place))
    return (a, b, c, d) if any((a, b, c, d)) else None


def _boxes(stream: BinaryIO, begin: int, end: int) -> Iterator[Box]:
    for _ in range(_MOST_BOXES):
        if begin + 8 > end:
            return
        stream.seek(begin)
        header = stream.read(16)
        if len(header) < 8:
            return
        size, content = int.from_bytes(header[:4], "big"), begin + 8
        if size == 1:
            size, content = int.from_bytes(header[8:16], "big"), begin + 16
        elif size == 0:  # to the end of the file
            size = end - begin
        if size < content - begin:
            return
        yield header[4:8], content, min(begin + size, end)
        begin += size
