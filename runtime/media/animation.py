"""Frames of an animated picture, evenly spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError
from valley2_edge.picture_limits import ANIMATION_FACTOR, FRAMES_FACTOR
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media.images import is_pillow_image

if TYPE_CHECKING:
    from PIL import Image


def places_of(count: int, frames: int) -> list[int]:
    """The numbers of `frames` frames out of `count`, spread as the reference does: int(linspace(0, count - 1))."""
    return [int(place) for place in np.linspace(0, count - 1, frames)]


def places_once(count: int, frames: int) -> list[int]:
    """The places of `places_of`, but none twice: all when there are fewer."""
    return places_of(count, min(count, frames))


def check_total(pixels: int, name: str, max_pixels: int) -> None:
    """Refuses frames that are too large together.

    Raises:
        InputError: As said.
    """
    if pixels > FRAMES_FACTOR * max_pixels:
        raise InputError(
            f"{name} is too large: the chosen frames have more than {FRAMES_FACTOR * max_pixels:,} pixels together; "
            "take fewer frames."
        )


def read_animation(
    source: BinaryIO | Image.Image, name: str, frames: int, strict: bool, max_pixels: int, cancel: CancelToken
) -> list[NDArray[np.uint8]]:
    """Reads frames as a viewer shows them; a still picture has one.

    Args:
        source: The encoded file, or an image that is open.
        name: What messages call it.
        frames: At most.
        strict: As `load_picture` takes it.
        max_pixels: Largest width times height of a frame.
        cancel: Stops between two frames.

    Raises:
        InputError: It is no picture, damaged or too large.
        Cancelled: The token was set.
    """
    from valley2_edge.runtime.media.pillow_reader import opened_picture

    if is_pillow_image(source):
        return _read(source, name, frames, strict, max_pixels, cancel)
    with opened_picture(cast("BinaryIO", source), name, max_pixels) as image:
        return _read(image, name, frames, strict, max_pixels, cancel)


def _read(
    image: Image.Image, name: str, frames: int, strict: bool, max_pixels: int, cancel: CancelToken
) -> list[NDArray[np.uint8]]:
    from valley2_edge.runtime.media.pillow_picture import turn_upright
    from valley2_edge.runtime.media.pillow_reader import count_frames, frame_pixels, orientation_of, seek_frame

    places = places_once(count_frames(image), frames)
    width, height = image.size
    check_total(width * height * len(places), name, max_pixels)
    # Every frame up to the last one is decoded, as each builds on the one before.
    if width * height * (places[-1] + 1) > ANIMATION_FACTOR * max_pixels:
        raise InputError(f"{name} is too large: {places[-1] + 1} frames of {width} x {height} pixels.")
    pictures = []
    reached = 0
    for place in places:
        for frame in range(reached, place + 1):
            cancel.check()
            seek_frame(image, frame)
        reached = place
        pixels = frame_pixels(image, strict, f"Frame {place + 1} of {name}", max_pixels, cancel)
        pictures.append(turn_upright(pixels, 1 if strict else orientation_of(image)))
    return pictures
