"""Frames of a video, evenly spread: of a file, of an animated picture, or of a list."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.runtime.cancellation import CancelToken, run_until_cancelled
from valley2_edge.runtime.media.animation import check_total, places_once, read_animation
from valley2_edge.runtime.media.images import ImageSource, is_pillow_image, load_picture
from valley2_edge.runtime.media.media_kind import HEAD_BYTES, PICTURE_ENDINGS, ending_of, foreign_reason, kind_of
from valley2_edge.runtime.media.source_file import kind_of_file, open_source
from valley2_edge.runtime.media.video_file import read_video

if TYPE_CHECKING:
    from PIL import Image

VideoSource: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | Iterable[ImageSource]"
"""The path of a video or of an animated picture, or the frames themselves in their order: `sources.sort_sources` makes
a list of them."""

MAX_FRAMES = 4096
"""The most frames of one question; far more than any context holds."""


def load_frames(
    source: VideoSource,
    frames: int = 8,
    *,
    strict: bool = False,
    max_pixels: int = DEFAULT_MAX_PICTURE_PIXELS,
    cancel: CancelToken | None = None,
) -> list[NDArray[np.uint8]]:
    """Loads the frames that the model sees of a video.

    What a file is, its content says and not its name. Of a video file there are always `frames` of them, as the
    reference's rule has it. Of a list, and of an animated picture (GIF, WebP, PNG, AVIF), there are all when they are
    `frames` at most, and otherwise `frames` of them, spread by the same rule; none is repeated.

    Args:
        source: Path, animated Pillow image, or a list of frames.
        frames: How many.
        strict: Reproduce the reference where a frame is a picture of its own (`load_picture`).
        max_pixels: Largest width times height of a frame.
        cancel: Stops the reading at once, as Ctrl-C does.

    Returns:
        Pictures, each (height, width, 3) uint8 RGB.

    Raises:
        InputError: frames is no number from 1 to `MAX_FRAMES`, there are no frames, or a file or a frame is unusable.
        Cancelled: The token was set.
    """
    frames, stop = check_frames(frames), CancelToken()
    if isinstance(source, (str, os.PathLike)):
        return read_frames(source, frames, strict=strict, max_pixels=max_pixels, cancel=cancel)
    if is_pillow_image(source):
        image = source
        return run_until_cancelled(
            lambda: read_animation(image, "The animation", frames, strict, max_pixels, stop),
            cancel or CancelToken(),
            stop.cancel,
            ends_soon=False,
        )
    listed = list_frames(source)
    pictures: list[NDArray[np.uint8]] = []
    places = places_once(len(listed), frames)
    for place in places:
        frame = listed[place]
        name = None if isinstance(frame, (str, os.PathLike)) else f"Frame {place + 1}"
        pictures.append(load_picture(frame, strict=strict, name=name, max_pixels=max_pixels, cancel=cancel))
        check_total(sum(picture.size for picture in pictures) // 3, "The video", max_pixels)
    return pictures


def check_frames(frames: int) -> int:
    """The number of frames as a Python integer.

    Raises:
        InputError: It is no whole number from 1 to `MAX_FRAMES`.
    """
    try:
        number = operator.index(frames)
    except TypeError as error:
        raise InputError(f"frames must be a whole number, not {frames!r}.") from error
    if isinstance(frames, bool):
        raise InputError(f"frames must be a whole number, not {frames!r}.")
    if number < 1:
        raise InputError(f"frames must be at least 1, not {number}.")
    if number > MAX_FRAMES:
        raise InputError(f"frames must be {MAX_FRAMES} at most, not {number}.")
    return number


def list_frames(source: Any) -> Sequence[ImageSource]:
    """The frames of a video that was given as frames, each as an image may be.

    Raises:
        InputError: They are no frames, or there is none.
    """
    if isinstance(source, (bytes, bytearray, memoryview)) or not isinstance(source, Sequence):
        raise InputError(f"A video must be a path or a list of frames, not {type(source)}.")
    if not source:
        raise InputError("The video has no frame.")
    return source


def read_frames(
    path: str | os.PathLike[str],
    frames: int = 8,
    *,
    strict: bool = False,
    max_pixels: int = DEFAULT_MAX_PICTURE_PIXELS,
    cancel: CancelToken | None = None,
) -> list[NDArray[np.uint8]]:
    """The part of `load_frames` for a file, with its arguments and errors."""
    frames, stop = check_frames(frames), CancelToken()
    video = kind_of_file(path) not in ("picture", "heif")
    return run_until_cancelled(
        lambda: _read_file(path, frames, strict, max_pixels, stop),
        cancel or CancelToken(),
        stop.cancel,
        ends_soon=video,
    )


def _read_file(
    path: str | os.PathLike[str], frames: int, strict: bool, max_pixels: int, cancel: CancelToken
) -> list[NDArray[np.uint8]]:
    name = str(path)
    called_picture = ending_of(path) in PICTURE_ENDINGS
    with open_source(path, "animated picture" if called_picture else "video") as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        kind = kind_of(head)
        if kind in ("picture", "heif") or ending_of(path) == ".tga":
            return read_animation(stream, name, frames, strict, max_pixels, cancel)
        if (reason := foreign_reason(head)) is not None:
            raise InputError(f"{name} cannot be used: {reason}.")
        if kind == "unknown" and called_picture:
            raise InputError(f"{name} is damaged or no animated picture that Pillow can read.")
        return read_video(stream, name, frames, max_pixels, cancel)
