"""A picture from anywhere to uint8 RGB."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from valley2_edge.errors import InputError, Valley2Warning

MAX_PICTURE_PIXELS = 178_956_970
"""Width times height at most. Pillow's own hard limit, so the reference refuses the same pictures."""

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]
"""A path, an encoded file in memory, a Pillow image, or uint8 pixels: (height, width, 3 or 4) or (height, width)."""

# What Pillow's decoders raise for damaged files, beside OSError.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Many phones write a second, small picture into an MPO file: that is no animation.
_STILL_FORMATS = {"MPO"}
_filters_lock = threading.Lock()


def load_picture(source: ImageSource, *, strict: bool = False, name: str | None = None) -> NDArray[np.uint8]:
    """Loads a picture.

    Alpha is dropped without compositing, as the reference does. An animation gives its first frame, with a
    `Valley2Warning`. DIFFERS: EXIF orientation is applied, and samples of 16 bits and of floats are scaled to 8 bits;
    the reference ignores the first and cuts the second off at 255. strict does as the reference.

    Args:
        source: Where the picture is.
        strict: Reproduce the reference.
        name: What messages call it; by default its path, or "The picture".

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        InputError: It is missing, no picture, damaged, empty or larger than `MAX_PICTURE_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "The array")
    if isinstance(source, Image.Image):
        return _decode(source, strict, name or "The picture")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_stream(io.BytesIO(source), strict, name or "The picture")
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"A picture must be a path, bytes, a Pillow image or a numpy array, not {type(source)}.")
    path = Path(source)
    name = name or str(path)
    if path.is_dir():
        raise InputError(f"{name} is a directory, not a picture.")
    try:
        with path.open("rb") as stream:
            return _decode_stream(stream, strict, name)
    except FileNotFoundError as error:
        raise InputError(f"There is no picture at {name}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _decode_stream(stream: Any, strict: bool, name: str) -> NDArray[np.uint8]:
    # The filter list is the process's: one thread at a time may set it aside.
    with _filters_lock, warnings.catch_warnings():
        # Our own limit is Pillow's error; its warning at half of that would only alarm.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(stream)
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        except UnidentifiedImageError as error:
            raise InputError(f"{name} is not a picture that Pillow can read.") from error
        except _DECODE_ERRORS as error:
            raise InputError(f"{name} is damaged: {error}.") from error
    with image:
        return _decode(image, strict, name)


def _decode(image: Image.Image, strict: bool, name: str) -> NDArray[np.uint8]:
    width, height = image.size
    if width == 0 or height == 0:
        raise InputError(f"{name} is empty: {width} x {height} pixels.")
    if width * height > MAX_PICTURE_PIXELS:
        raise _too_large(name, width, height)
    try:
        _announce_frames(image, name)
        image.load()
        rgb = image.convert("RGB") if strict else _upright(image, _to_rgb(image))
    except Image.DecompressionBombError as error:
        raise _too_large(name, width, height) from error
    except _DECODE_ERRORS as error:
        raise InputError(f"{name} is truncated or damaged: {str(error).rstrip('.')}.") from error
    return np.array(rgb, dtype=np.uint8)  # (height, width, 3)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16)  # (height, width)
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_scaled_to_bytes(np.asarray(image))).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        # The same colours as the direct way, without Pillow's warning about transparency.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _scaled_to_bytes(samples: NDArray[Any]) -> NDArray[np.uint8]:
    # Wide samples say nothing about their white: the smallest usual range that holds the largest sample is taken.
    finite = np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(finite.max())
    limits = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (255.0, 65535.0)
    white = next((limit for limit in limits if largest <= limit), largest)
    return np.clip(np.rint(finite * (255.0 / white)), 0, 255).astype(np.uint8)


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODE_ERRORS:
        # The pixels are good; only the note about them is not.
        return rgb
    transposition = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return rgb if transposition is None else rgb.transpose(transposition)


def _announce_frames(image: Image.Image, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _STILL_FORMATS:
        warnings.warn(f"{name} has {frames} frames; only the first is used.", Valley2Warning, stacklevel=2)


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"{name} must be uint8 of shape (height, width, 3), not {array.dtype} of shape {array.shape}.")
    if array.size == 0:
        raise InputError(f"{name} is empty: {array.shape[1]} x {array.shape[0]} pixels.")
    if array.shape[0] * array.shape[1] > MAX_PICTURE_PIXELS:
        raise _too_large(name, array.shape[1], array.shape[0])
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _too_large(name: str, width: int = 0, height: int = 0) -> InputError:
    size = f" with its {width} x {height} pixels" if width else ""
    return InputError(f"{name} is too large{size}: pictures may have {MAX_PICTURE_PIXELS:,} pixels at most.")
