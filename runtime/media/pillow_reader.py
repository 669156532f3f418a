"""What Pillow is asked for: a picture of an allowed format, one frame of it, as uint8 RGB."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.picture_limits import check_bytes, check_size
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media.media_kind import (
    HEAD_BYTES,
    HEIF_SENTENCE,
    UNSUPPORTED_ENDINGS,
    ending_of,
    foreign_reason,
    kind_of,
)
from valley2_edge.runtime.media.wide_samples import range_of

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "PPM", "ICO", "TGA")
"""What people have, read by libraries that are kept well. EPS would start another program; JPEG 2000 takes minutes in
which Pillow lets nothing else run, so that no cancel would be heard."""

_STRIP_PIXELS = 1 << 20
"""Converted at once, so that the other forms of a large picture never exist as a whole."""
# Phones write second pictures into such files: previews and depths, no animation.
_STILL_FORMATS = {"MPO", "HEIF"}
_DNG_VERSION = 50706
_ICO_MAGIC = b"\0\0\1\0"


@contextmanager
def opened_picture(stream: BinaryIO, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """Opens a picture and reads its header.

    Args:
        stream: The encoded file, at its start; it can seek.
        name: What messages call it.
        max_pixels: Width times height at most.

    Raises:
        InputError: It is of no format that is read, damaged, empty or too large; in the block as well, whatever
            Pillow raises there.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if (reason := foreign_reason(head)) is not None:
        raise InputError(f"{name} cannot be used: {reason}.")
    check_bytes(size, name, max_pixels)
    if head.startswith(_ICO_MAGIC):
        _check_icons(stream, name, max_pixels)
    kind = kind_of(head)
    formats = (_heif_format(name),) if kind == "heif" else FORMATS
    _quiet_libtiff()
    with _named_damage(name, max_pixels):
        try:
            opened = Image.open(stream, formats=formats)
        except UnidentifiedImageError as error:
            if kind == "unknown":
                raise
            raise InputError(f"{name} is damaged, or of a variant that Pillow cannot read.") from error
    with _named_damage(name, max_pixels), opened as image:
        # Raw camera files are TIFF files whose first page is a small preview.
        reason = UNSUPPORTED_ENDINGS.get(ending_of(name)) if image.format == "TIFF" else None
        if reason is None and _DNG_VERSION in (getattr(image, "tag_v2", None) or ()):
            reason = UNSUPPORTED_ENDINGS[".dng"]
        if reason is not None:
            raise InputError(f"{name} cannot be used: {reason}.")
        check_size(*image.size, name, max_pixels)
        yield image


@contextmanager
def _named_damage(name: str, max_pixels: int) -> Iterator[None]:
    with _quiet_pillow():
        try:
            yield
        except Valley2Error:
            raise
        except Image.DecompressionBombError as error:
            raise InputError(f"{name} is too large: pictures may have {max_pixels:,} pixels at most.") from error
        except UnidentifiedImageError as error:
            raise InputError(f"{name} is not a picture that Pillow can read.") from error
        except MemoryError as error:
            raise InputError(f"{name} is damaged, or the memory does not suffice to decode it.") from error
        except Exception as error:  # a decoder raises nearly anything for a damaged file
            raise InputError(f"{name} is truncated or damaged: {_text_of(error)}.") from error


def count_frames(image: Image.Image) -> int:
    """The frames of an animation; 1 for a still picture."""
    if image.format in _STILL_FORMATS:
        return 1
    return max(1, int(getattr(image, "n_frames", 1)) - _hidden_frames(image))


def seek_frame(image: Image.Image, frame: int) -> None:
    """Turns to a frame of an animation as a viewer counts them, from 0."""
    place = frame + _hidden_frames(image)
    if place != image.tell():
        image.seek(place)


def frame_pixels(
    image: Image.Image, strict: bool, name: str, max_pixels: int, cancel: CancelToken
) -> NDArray[np.uint8]:
    """Decodes the frame that a picture stands at.

    Args:
        image: The picture.
        strict: Convert as the reference does.
        name: What messages call it.
        max_pixels: Width times height at most.
        cancel: Stops between two parts of the conversion.

    Returns:
        (height, width, 3), not turned upright. Of alpha nothing is left, without compositing.

    Raises:
        InputError: It is damaged, empty or too large.
        Cancelled: The token was set.
    """
    with _named_damage(name, max_pixels):
        check_size(*image.size, name, max_pixels)
        image.load()
        # Some decoders learn the size late.
        check_size(*image.size, name, max_pixels)
        width, height = image.size
        samples = None if strict else range_of(image)
        pixels = np.empty((height, width, 3), np.uint8)
        rows = max(1, _STRIP_PIXELS // width)
        for top in range(0, height, rows):
            cancel.check()
            strip = image.crop((0, top, width, min(top + rows, height)))
            if samples is None:
                pixels[top : top + rows] = np.asarray(_to_rgb(strip, strict))
            else:
                pixels[top : top + rows] = samples.to_bytes(np.asarray(strip))[:, :, None]
        return pixels


def orientation_of(image: Image.Image) -> int:
    """The orientation that a picture's EXIF data note; 1, upright, where there is none that can be read."""
    with _quiet_pillow():
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # the pixels are good; only the note about them is not
            return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _to_rgb(strip: Image.Image, strict: bool) -> Image.Image:
    if not strip.mode.startswith(("RGB", "L")) and not strict and "transparency" in strip.info:
        # The same colours as the direct way, without Pillow's warning about transparency.
        return strip.convert("RGBA").convert("RGB")
    return (strip.convert("LA") if strip.mode == "La" else strip).convert("RGB")


@functools.cache
def _quiet_libtiff() -> None:
    """Keeps the library that Pillow reads TIFF files with from writing about each damaged row to stderr."""
    # Looked for in Pillow's module, so that it is Pillow's own copy; where it cannot be reached it stays as it is.
    with contextlib.suppress(OSError, AttributeError):
        pillow = ctypes.CDLL(_imaging.__file__)
        for setter in (pillow.TIFFSetErrorHandler, pillow.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def _hidden_frames(image: Image.Image) -> int:
    """1 for an animated PNG whose first picture is only for programs that cannot show animations."""
    return 1 if getattr(image, "default_image", False) and getattr(image, "n_frames", 1) > 1 else 0


def _heif_format(name: str) -> str:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise InputError(f"{name} cannot be used: {HEIF_SENTENCE}.") from error
    register_heif_opener()
    return "HEIF"


def _check_icons(stream: BinaryIO, name: str, max_pixels: int) -> None:
    """Measures the pictures inside an ICO file: its directory may say something else, and Pillow decodes at once."""
    directory = stream.read(6 + 16 * 256)
    for entry in range(6, 6 + 16 * min(256, int.from_bytes(directory[4:6], "little")), 16):
        stream.seek(int.from_bytes(directory[entry + 12 : entry + 16], "little"))
        head = stream.read(24)
        if head.startswith(b"\x89PNG"):
            width, height = (int.from_bytes(head[place : place + 4], "big") for place in (16, 20))
        else:  # a bitmap of twice the height: a mask follows the colours
            width, height = (abs(int.from_bytes(head[place : place + 4], "little", signed=True)) for place in (4, 8))
            height //= 2
        check_size(max(width, 1), max(height, 1), name, max_pixels)
    stream.seek(0)


def _text_of(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


class _Quiet:
    """Keeps Pillow's warnings about damaged metadata away from stderr while anybody is reading.

    The filters are the process's. Saving and restoring them in several threads would mix them up; an entry of our
    own is put in and taken out instead, and nobody waits for anybody.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._entry: Any = None

    def enter(self) -> None:
        with self._lock:
            self._readers += 1
            warnings.filterwarnings("ignore", module=r"PIL\.")
            self._entry = warnings.filters[0]

    def leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0 and self._entry in warnings.filters:
                warnings.filters.remove(self._entry)  # type: ignore[attr-defined]


_quiet = _Quiet()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    _quiet.enter()
    try:
        yield
    finally:
        _quiet.leave()
