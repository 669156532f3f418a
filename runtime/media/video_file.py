"""Frames of a video file by their numbers, read through OpenCV from the first to the last."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError
from valley2_edge.picture_limits import check_size
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media.animation import check_total, places_of
from valley2_edge.runtime.media.display_matrix import turning_of

_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,mpegtsraw,h264,hevc,m4v,flv,live_flv,asf,asf_o,"
    "ogg,ivf,mxf,dv,rm,nut"
)
"""FFmpeg's names. Others by content would open further files or the network: playlists, session descriptions."""
_MOST_FRAMES = 1 << 40
"""That a container's promise is believed to mean; it is a guess anyway."""
_FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_environment_lock = threading.Lock()


def read_video(
    stream: BinaryIO, name: str, frames: int, max_pixels: int, cancel: CancelToken
) -> list[NDArray[np.uint8]]:
    """Reads frames spread evenly over a video, the first and the last included.

    What the container says about its number of frames is a guess, and a jump to a frame may miss it: all are decoded
    in their order and counted. When the guess was wrong, a second pass takes the right ones.

    Args:
        stream: The file.
        name: What messages call it.
        frames: How many; a shorter video repeats some.
        max_pixels: Largest width times height of a frame.
        cancel: Stops between two frames, and wherever FFmpeg reads on.

    Returns:
        `frames` pictures, each (height, width, 3) uint8 RGB, turned as the container says.

    Raises:
        InputError: OpenCV is missing, or the file is no video, too large, or has no readable frame.
        Cancelled: The token was set.
    """
    turning = turning_of(stream)
    with _opened(stream, name, cancel, turn=turning is None) as capture:
        sides = (_opencv().CAP_PROP_FRAME_WIDTH, _opencv().CAP_PROP_FRAME_HEIGHT)
        width, height = (int(capture.get(side)) for side in sides)
        check_size(max(width, 1), max(height, 1), name, max_pixels)
        check_total(width * height * frames, name, max_pixels)
        codec = _codec_of(capture)
        promised = capture.get(_opencv().CAP_PROP_FRAME_COUNT)
        guess = int(promised) if 0 < promised < _MOST_FRAMES else 0
        found, count = _pass(capture, set(places_of(guess, frames)) if guess else set(), name, max_pixels, cancel)
    if count == 0:
        raise InputError(f"{name} has no readable frame: it is damaged, or OpenCV cannot decode its {codec}.")
    places = places_of(count, frames)
    if count != guess:
        found.clear()
        with _opened(stream, name, cancel, turn=turning is None) as capture:
            found, _ = _pass(capture, set(places), name, max_pixels, cancel)
    pictures = {place: pixels if turning is None else turning.apply(pixels) for place, pixels in found.items()}
    try:
        return [np.ascontiguousarray(pictures[place][:, :, ::-1]) for place in places]  # BGR to RGB
    except KeyError as error:
        raise InputError(f"{name} is damaged: reading it twice does not give the same frames.") from error


def _codec_of(capture: Any) -> str:
    letters = int(capture.get(_opencv().CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    return f"codec ({letters.decode()})" if letters.isalnum() else "codec"


def _pass(
    capture: Any, places: set[int], name: str, max_pixels: int, cancel: CancelToken
) -> tuple[dict[int, NDArray[np.uint8]], int]:
    """Reads to the end: the wanted frames, (height, width, 3) BGR, and how many there are."""
    found: dict[int, NDArray[np.uint8]] = {}
    count = total = 0
    while capture.grab():
        cancel.check()
        if count in places:
            readable, pixels = capture.retrieve()
            if readable:
                found[count] = pixels
                total += pixels.shape[0] * pixels.shape[1]
                check_total(total, name, max_pixels)  # sizes may change on the way
        count += 1
    cancel.check()  # a cancelled stream looks like an ended one
    return found, count


@contextmanager
def _opened(stream: BinaryIO, name: str, cancel: CancelToken, *, turn: bool) -> Iterator[Any]:
    cv2 = _opencv()
    stream.seek(0)
    # Held here: OpenCV drops its own reference without the interpreter's lock, which must not be the last one.
    reader = _CancellableStream(stream, cancel)
    # The name is never given to FFmpeg, which reads addresses and patterns out of names.
    with _allowed_demuxers():
        capture = cv2.VideoCapture(reader, cv2.CAP_FFMPEG, [])
    try:
        cancel.check()
        if not capture.isOpened():
            raise InputError(f"{name} is not a video that OpenCV can read.")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(turn))
        yield capture
    except cv2.error as error:
        raise InputError(f"{name} is damaged: OpenCV cannot decode it.") from error
    finally:
        capture.release()
        del reader


class _CancellableStream(io.BufferedIOBase):
    """A file that seems to end when the caller cancels; what it raises would be lost in OpenCV."""

    def __init__(self, stream: BinaryIO, cancel: CancelToken) -> None:
        self._stream = stream
        self._cancel = cancel

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return b"" if self._cancel.cancelled else self._stream.read(-1 if size is None else size)
        except (OSError, ValueError):
            return b""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, ValueError):
            return -1


@contextmanager
def _allowed_demuxers() -> Iterator[None]:
    """Lets FFmpeg recognise containers of videos only; OpenCV takes its options from the environment alone."""
    with _environment_lock:
        before = os.environ.get(_FFMPEG_OPTIONS)
        os.environ[_FFMPEG_OPTIONS] = f"format_whitelist;{_DEMUXERS}|protocol_whitelist;none"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FFMPEG_OPTIONS]
            else:
                os.environ[_FFMPEG_OPTIONS] = before


def _opencv() -> ModuleType:
    # Read when OpenCV loads its backend: without it FFmpeg writes its own complaints to stderr.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        import cv2
    except ImportError as error:
        raise InputError('Videos need OpenCV: pip install "valley2-edge[video]".') from error
    module: ModuleType = cv2
    return module
