"""A picture from anywhere to uint8 RGB: files by the core where it reads them, and everything else by Pillow."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS, MAX_PICTURE_PIXELS, check_bytes, check_size
from valley2_edge.runtime.cancellation import CancelToken, run_until_cancelled
from valley2_edge.runtime.core.pictures import (
    HEAD_BYTES,
    Picture,
    PictureHeader,
    decode_picture,
    inspect_picture,
    names_kind,
)
from valley2_edge.runtime.media.source_file import open_source

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]"
"""A path, an encoded file in memory, a Pillow image, or uint8 pixels: (height, width, 3 or 4) or (height, width)."""

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
    """Loads the pixels of a picture.

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
    found = _load(source, strict, name, max_pixels, cancel or CancelToken())
    return found.pixels if isinstance(found, Picture) else found


def open_picture(
    source: ImageSource, *, strict: bool, name: str | None, max_pixels: int, cancel: CancelToken
) -> Picture:
    """Loads a picture into the core, as `load_picture` says it."""
    found = _load(source, strict, name, max_pixels, cancel)
    return found if isinstance(found, Picture) else Picture.of_pixels(found)


def _load(
    source: ImageSource, strict: bool, name: str | None, max_pixels: int, cancel: CancelToken
) -> Picture | NDArray[np.uint8]:
    """A picture that the core has decoded, or pixels from elsewhere."""
    max_pixels = min(max_pixels, MAX_PICTURE_PIXELS)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "The array", max_pixels)
    what = name or _name_of(source)
    pixels: Picture | NDArray[np.uint8]
    if is_pillow_image(source):
        pixels, frames = _load_by_pillow(source, what, strict, max_pixels, cancel)
    else:
        with _stream_of(source) as stream:
            known = _core_file(stream, what, strict, max_pixels)
            if known is None:
                pixels, frames = _load_by_pillow(stream, what, strict, max_pixels, cancel)
            else:
                content, header = known
                pixels, frames = (
                    decode_picture(content, name=what, strict=strict, max_pixels=max_pixels, cancel=cancel),
                    header.frames,
                )
    if frames > 1:
        warnings.warn(f"{what} has {frames} frames; only the first is used.", Valley2Warning, stacklevel=3)
    return pixels


def picture_size(source: ImageSource, *, name: str | None = None, max_pixels: int = DEFAULT_MAX_PICTURE_PIXELS) -> Size:
    """Width and height that `load_picture` will give without strict, from the header; it raises the same errors."""
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    if is_pillow_image(source):
        from valley2_edge.runtime.media.pillow_picture import upright_size

        return upright_size(source)
    what, max_pixels = name or _name_of(source), min(max_pixels, MAX_PICTURE_PIXELS)
    with _stream_of(source) as stream:
        known = _core_file(stream, what, False, max_pixels)
        if known is not None:
            return known[1].width, known[1].height
        from valley2_edge.runtime.media.pillow_picture import upright_size_of_file

        return upright_size_of_file(stream, what, max_pixels)


def is_pillow_image(source: object) -> TypeGuard[Image.Image]:
    """Whether a source is a Pillow image. Pillow is not loaded for the question: who has an image has loaded it."""
    image: Any = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return image is not None and isinstance(source, image)


def _name_of(source: object) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "The picture"


def _core_file(stream: BinaryIO, name: str, strict: bool, max_pixels: int) -> tuple[bytes, PictureHeader] | None:
    """A file that the core decodes, and its header; None: Pillow is asked, and the stream is at its start."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if not names_kind(head):
        return None
    size = stream.seek(0, 2)
    stream.seek(0)
    check_bytes(size, name, max_pixels)
    content = stream.read(size)
    stream.seek(0)
    header = inspect_picture(content, name=name, strict=strict, max_pixels=max_pixels)
    return (content, header) if header.readable else None


def _load_by_pillow(
    source: BinaryIO | Image.Image, name: str, strict: bool, max_pixels: int, cancel: CancelToken
) -> tuple[NDArray[np.uint8], int]:
    """The pixels and how many frames there are; after a cancel nobody waits for Pillow."""
    from valley2_edge.runtime.media.pillow_picture import read_picture

    stop = CancelToken()
    return run_until_cancelled(
        lambda: read_picture(source, name, strict, max_pixels, stop), cancel, stop.cancel, ends_soon=False
    )


def _stream_of(source: Any) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        return open_source(source, "picture")
    raise InputError(f"A picture must be a path, bytes, a Pillow image or a numpy array, not {type(source)}.")


def _from_array(array: NDArray[Any], name: str, max_pixels: int) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"{name} must be uint8 of shape (height, width, 3), not {array.dtype} of shape {array.shape}.")
    check_size(array.shape[1], array.shape[0], name, max_pixels)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])
