"""Picture files, read by the native core: their headers, and their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.picture_limits import MAX_PICTURE_PIXELS
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import array_pointer, new_struct
from valley2_edge.runtime.core.library import check, library

HEAD_BYTES = 16
"""Bytes from the start of a file that `names_kind` needs."""


@dataclass(frozen=True)
class PictureHeader:
    """What the headers of a file say."""

    readable: bool
    """Whether the core decodes it; a kind, a variant or a build that it does not read has no size here."""
    width: int
    """Pixels, turned upright, as the following."""
    height: int
    frames: int
    """Number of pictures of an animation; 1 for a still one."""


def names_kind(head: bytes) -> bool:
    """Whether a file is of a kind that the core knows, by its first `HEAD_BYTES`; not whether this build reads it."""
    number: int = library().v2e_picture_kind_of(ffi.from_buffer(head), len(head))
    return bool(number != library().V2E_PICTURE_UNKNOWN)


def inspect_picture(content: bytes, *, name: str, strict: bool, max_pixels: int) -> PictureHeader:
    """Reads the headers of a file.

    Args:
        content: The file.
        name: What messages call it.
        strict: No orientation, as the reference.
        max_pixels: Width times height at most.

    Raises:
        InputError: The headers are damaged, or the picture is empty or too large.
    """
    found = new_struct("v2e_picture_description")
    options = _options(name, strict, max_pixels)
    check(library().v2e_picture_inspect(ffi.from_buffer(content), len(content), options, found))
    return PictureHeader(bool(found.readable), found.width, found.height, found.frames)


class Picture:
    """Pixels in the core's memory, which never change; questions about the picture need no copy of them.

    Args:
        handle: A v2e_picture, which goes with the last that needs it.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = ffi.gc(handle, library().v2e_picture_close)
        """The v2e_picture."""

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8]) -> Picture:
        """A copy of (height, width, 3) RGB."""
        dense = np.ascontiguousarray(pixels)
        height, width, _ = dense.shape
        handle = ffi.new("v2e_picture **")
        options = new_struct("v2e_picture_options", max_pixels=MAX_PICTURE_PIXELS)
        check(
            library().v2e_picture_from_pixels(
                array_pointer(dense), width, height, 0, library().V2E_PIXELS_RGB, options, handle
            )
        )
        return cls(handle[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        header = new_struct("v2e_picture_description")
        check(library().v2e_picture_describe(self.handle, header))
        return int(header.width), int(header.height)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 3), which lie where the core has put them and keep the picture."""
        width, height = self.size
        size, picture = 3 * width * height, self.handle
        # The array holds the buffer, the buffer this pointer, and the pointer the picture.
        first = ffi.gc(library().v2e_picture_pixels(picture), lambda _: picture, size)
        return np.frombuffer(ffi.buffer(first, size), np.uint8).reshape(height, width, 3)


def decode_picture(content: bytes, *, name: str, strict: bool, max_pixels: int, cancel: CancelToken) -> Picture:
    """Decodes a file that `inspect_picture` calls readable.

    Args:
        content: The file.
        name: What messages call it.
        strict: As the reference: no orientation, grey samples of 16 bits cut off at 255.
        max_pixels: Width times height at most.
        cancel: Stops the decoding within some rows, as Ctrl-C does.

    Returns:
        The picture, turned upright.

    Raises:
        InputError: The file is damaged, or the picture is empty or too large.
        Cancelled: The token was set.
    """
    core = library()
    handle = ffi.new("v2e_cancel **")
    check(core.v2e_cancel_create(handle))
    flag = ffi.gc(handle[0], core.v2e_cancel_destroy)
    options = _options(name, strict, max_pixels, flag)
    picture = ffi.new("v2e_picture **")
    source = ffi.from_buffer(content)

    def decode() -> None:
        # The sentence of a failure belongs to the thread that met it.
        check(core.v2e_picture_decode(source, len(content), options, picture))

    def stop() -> None:
        core.v2e_cancel_set(flag)

    try:
        with cancel.stopping(stop):
            run_interruptibly(decode, stop)
    except BaseException:
        core.v2e_picture_close(picture[0])
        raise
    return Picture(picture[0])


def _options(name: str, strict: bool, max_pixels: int, cancel: Any = None) -> Any:
    text = ffi.new("char[]", name.encode(errors="replace"))
    return new_struct("v2e_picture_options", max_pixels=max_pixels, strict=strict, name=text, cancel=cancel)
