"""A still picture by Pillow: of the kinds and variants that the core does not read, and of Pillow's own images."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media.pillow_reader import (
    count_frames,
    frame_pixels,
    opened_picture,
    orientation_of,
    seek_frame,
)

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


def read_picture(
    source: BinaryIO | Image.Image, name: str, strict: bool, max_pixels: int, cancel: CancelToken
) -> tuple[NDArray[np.uint8], int]:
    """Reads the first frame of a picture.

    Args:
        source: The file, at its start, or an image.
        name: What messages call it.
        strict: As `load_picture` takes it.
        max_pixels: Width times height at most.
        cancel: Stops between two parts of the conversion.

    Returns:
        (height, width, 3) RGB, turned upright, and how many frames the picture has.

    Raises:
        InputError: It is no picture, damaged, empty or too large.
        Cancelled: The token was set.
    """
    if isinstance(source, Image.Image):
        return _decode(source, strict, name, max_pixels, cancel)
    with opened_picture(source, name, max_pixels) as image:
        return _decode(image, strict, name, max_pixels, cancel)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """The width and height of an image once it is turned upright, in pixels."""
    width, height = image.size
    return (height, width) if orientation_of(image) in _TRANSPOSED else (width, height)


def upright_size_of_file(stream: BinaryIO, name: str, max_pixels: int) -> tuple[int, int]:
    """The same of a file, from its header.

    Raises:
        InputError: It is no picture, damaged, empty or too large.
    """
    with opened_picture(stream, name, max_pixels) as image:
        return upright_size(image)


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Applies an EXIF orientation, 1 to 8, to (height, width, 3) pixels."""
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels


def _decode(
    image: Image.Image, strict: bool, name: str, max_pixels: int, cancel: CancelToken
) -> tuple[NDArray[np.uint8], int]:
    frames = count_frames(image)
    if frames > 1 and not strict:
        seek_frame(image, 0)
    pixels = frame_pixels(image, strict, name, max_pixels, cancel)
    return turn_upright(pixels, 1 if strict else orientation_of(image)), frames
