"""How large pictures may be; looked at in a file's header, before anything is decoded."""

from __future__ import annotations

from valley2_edge.errors import InputError

MAX_PICTURE_PIXELS = 178_956_970
"""The highest limit that can be chosen: Pillow's own."""
DEFAULT_MAX_PICTURE_PIXELS = 100_000_000
"""Width times height at most, unless a caller chooses another limit."""
STRANGERS_MAX_PICTURE_PIXELS = 40_000_000
"""What a program should choose that takes pictures from people whom it does not know."""

FRAMES_FACTOR = 4
"""Pixels of the chosen frames of a video together, in pictures of the largest size."""
ANIMATION_FACTOR = 100
"""Pixels that an animated picture may take to decode, frame after frame, likewise."""
_BYTES_PER_PIXEL = 8
"""The most that a file takes for a pixel: four samples of 16 bits."""
_SPARE_BYTES = 64 << 20
"""For what else a file holds: previews, profiles, other pages."""


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuses a picture that is empty or too large.

    Raises:
        InputError: As said.
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
        InputError: As said.
    """
    limit = _BYTES_PER_PIXEL * max_pixels + _SPARE_BYTES
    if size > limit:
        raise InputError(f"{name} is too large with its {size:,} bytes: pictures may have {limit:,} bytes at most.")
