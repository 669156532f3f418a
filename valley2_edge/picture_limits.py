"""How large pictures may be; looked at in a file's header, before anything is decoded."""

from __future__ import annotations

from valley2_edge.errors import InputError

MAX_PICTURE_PIXELS = 178_956_970
"""The highest limit that can be chosen: Pillow's own."""
DEFAULT_MAX_PICTURE_PIXELS = 100_000_000
"""Largest width times height, unless a caller chooses another limit."""
STRANGERS_MAX_PICTURE_PIXELS = 40_000_000
"""What a program should choose that takes pictures from people whom it does not know."""

FRAMES_FACTOR = 4
"""Most pixels of all chosen frames of a video, in pictures of the largest size."""
ANIMATION_FACTOR = 100
"""Most pixels of all frames that an animated picture takes to decode, in pictures of the largest size."""
_BYTES_PER_PIXEL = 8
"""The most that a file takes for a pixel: four samples of 16 bits."""
_SPARE_BYTES = 64 << 20
"""Bytes for what else a file holds: previews, profiles, other pages."""


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuses a picture that is empty or too large.

    Raises:
        InputError: A side is 0, or the picture has more than `max_pixels`.
    """
    if width <= 0 or height <= 0:
        raise InputError(f"{name} is empty: {width} x {height} pixels.")
    if width * height > max_pixels:
        raise InputError(
            f"{name} is too large with its {width} x {height} pixels: pictures may have {max_pixels:,} pixels at most."
        )


def check_bytes(size: int, name: str, max_pixels: int) -> None:
    """Refuses a file that is larger than any picture of the largest size.

    Raises:
        InputError: The file has more bytes than a picture of `max_pixels` can have.
    """
    limit = _BYTES_PER_PIXEL * max_pixels + _SPARE_BYTES
    if size > limit:
        raise InputError(f"{name} is too large with its {size:,} bytes: pictures may have {limit:,} bytes at most.")
