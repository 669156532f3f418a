"""A picture from anywhere to uint8 RGB."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS, MAX_PICTURE_PIXELS, check_size
from valley2_edge.runtime.cancellation import CancelToken, run_until_cancelled
from valley2_edge.runtime.media.pillow_reader import (
    count_frames,
    frame_pixels,
    opened_picture,
    orientation_of,
    seek_frame,
)
from valley2_edge.runtime.media.source_file import open_source

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]
"""A path, an encoded file in memory, a Pillow image, or uint8 pixels: (height, width, 3 or 4) or (height, width)."""

_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""How a picture is turned, by its EXIF orientation."""
_TRANSPOSED = (5, 6, 7, 8)

Size = tuple[int, int]
"""Width and height, pixels."""


def load_picture(
    source: ImageSource,
    *,
    strict: bool = False,
    name: str | None = None,
    max_pixels: int = DEFAULT_MAX_PICTURE_PIXELS,
    cancel: CancelToken | None = None,
) -> NDArray[np.uint8]:
    """Loads a picture.

    Alpha is dropped without compositing, as the reference does. An animation gives its first frame, with a
    `Valley2Warning`. DIFFERS: EXIF orientation is applied, samples of more than 8 bits are scaled to 8 bits by what
    the format says is white, and an animated PNG gives what a viewer of animations shows first; the reference ignores
    the first, cuts the second off at 255, and takes a hidden default image. strict does as the reference.

    Args:
        source: Where the picture is.
        strict: Reproduce the reference.
        name: What messages call it; by default its path, or "The picture".
        max_pixels: Width times height at most, and never more than `MAX_PICTURE_PIXELS`; looked at before anything is
            decoded.
        cancel: Stops the reading at once, as Ctrl-C does.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        InputError: It is missing, no picture, damaged, empty or too large.
        Cancelled: The token was set.
    """
    max_pixels = min(max_pixels, MAX_PICTURE_PIXELS)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "The array", max_pixels)
    what = name or (str(source) if isinstance(source, (str, os.PathLike)) else "The picture")

    stop = CancelToken()

    def work() -> tuple[NDArray[np.uint8], int]:
        if isinstance(source, Image.Image):
            pixels, orientation, frames = _decode(source, strict, what, max_pixels, stop)
        else:
            with _stream_of(source) as stream, opened_picture(stream, what, max_pixels) as image:
                pixels, orientation, frames = _decode(image, strict, what, max_pixels, stop)
        return turn_upright(pixels, orientation), frames

    pixels, frames = run_until_cancelled(work, cancel or CancelToken(), stop.cancel, ends_soon=False)
    if frames > 1:
        warnings.warn(f"{what} has {frames} frames; only the first is used.", Valley2Warning, stacklevel=2)
    return pixels


def picture_size(source: ImageSource, *, name: str | None = None, max_pixels: int = DEFAULT_MAX_PICTURE_PIXELS) -> Size:
    """Width and height that `load_picture` will give without strict, from the header; it raises the same errors."""
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    if isinstance(source, Image.Image):
        return _upright_size(source)
    what = name or (str(source) if isinstance(source, (str, os.PathLike)) else "The picture")
    with _stream_of(source) as stream, opened_picture(stream, what, min(max_pixels, MAX_PICTURE_PIXELS)) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> Size:
    width, height = image.size
    return (height, width) if orientation_of(image) in _TRANSPOSED else (width, height)


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Applies an EXIF orientation, 1 to 8, to (height, width, 3) pixels."""
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels


def _stream_of(source: Any) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        return open_source(source, "picture")
    raise InputError(f"A picture must be a path, bytes, a Pillow image or a numpy array, not {type(source)}.")


def _decode(
    image: Image.Image, strict: bool, name: str, max_pixels: int, cancel: CancelToken
) -> tuple[NDArray[np.uint8], int, int]:
    """The pixels, the orientation to apply, and how many frames there are."""
    frames = count_frames(image)
    if frames > 1 and not strict:
        seek_frame(image, 0)
    pixels = frame_pixels(image, strict, name, max_pixels, cancel)
    return pixels, 1 if strict else orientation_of(image), frames


def _from_array(array: NDArray[Any], name: str, max_pixels: int) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"{name} must be uint8 of shape (height, width, 3), not {array.dtype} of shape {array.shape}.")
    check_size(array.shape[1], array.shape[0], name, max_pixels)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])
