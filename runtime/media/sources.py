"""What a question is about, as the caller names it: pictures, or the frames of a video."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.pictures import Picture
from valley2_edge.runtime.media.images import ImageSource, Size, is_pillow_image, open_picture, picture_size
from valley2_edge.runtime.media.source_file import is_video
from valley2_edge.runtime.media.video import VideoSource, list_frames, load_frames

ImageSources: TypeAlias = "Iterable[ImageSource] | None"
"""Pictures in their order, from anything that can be iterated; None: no picture."""

_BYTES = (bytes, bytearray, memoryview)
_MOST_SOURCES = 100_000
"""The most pictures of one question; an iterator may have no end."""


def sort_sources(images: ImageSources, video: VideoSource | None) -> tuple[list[ImageSource], VideoSource | None]:
    """Takes what a caller gives for what he means, and the path of a video among the pictures for the video.

    Iterators are used up here, once; what is returned can be read again.

    Args:
        images: Pictures from any iterable; an array (n, height, width, 3) has n; None is no picture.
        video: A path, an animated Pillow image, or frames as pictures are given.

    Returns:
        Pictures, and the path, the image or the list of frames of a video.

    Raises:
        InputError: There are pictures and a video, images is one picture and no list, or one of them is no picture.
    """
    pictures = [] if images is None else _list_sources(images, "images", "Picture")
    if video is not None and not _is_one(video):
        if isinstance(video, _BYTES):
            raise InputError(f"video must be a path or a list of frames, not {type(video)}.")
        video = _list_sources(video, "video", "Frame")
        list_frames(video)
    videos = [source for source in pictures if is_video(source)]
    if not videos:
        if video is not None and pictures:
            raise InputError("One question can be about pictures or about a video, not about both.")
        return pictures, video
    if len(pictures) > 1 or video is not None:
        raise InputError("One question can be about pictures or about one video, not about both.")
    return [], videos[0]  # type: ignore[return-value]


def _is_one(source: object) -> bool:
    """Whether it is a path or a Pillow image: one picture, or one video."""
    return isinstance(source, (str, os.PathLike)) or is_pillow_image(source)


def _list_sources(sources: Any, argument: str, what: str) -> list[ImageSource]:
    if _is_one(sources) or isinstance(sources, _BYTES) or (isinstance(sources, np.ndarray) and sources.ndim != 4):
        raise InputError(f"{argument} must be a list of pictures, not one picture: put it into [ ].")
    # Neither has an order; a file's items would be its lines.
    if isinstance(sources, (Mapping, AbstractSet)) or hasattr(sources, "read"):
        raise InputError(f"{argument} must be a list of pictures, not {type(sources)}.")
    try:
        items = iter(sources)
    except TypeError as error:
        raise InputError(f"{argument} must be a list of pictures, not {type(sources)}.") from error
    listed = list(islice(items, _MOST_SOURCES + 1))
    if len(listed) > _MOST_SOURCES:
        raise InputError(f"{argument} must be {_MOST_SOURCES:,} pictures at most.")
    for number, source in enumerate(listed, 1):
        if not _is_one(source) and not isinstance(source, (np.ndarray, *_BYTES)):
            raise InputError(
                f"{what} {number} must be a path, bytes, a Pillow image or a numpy array, not {type(source)}."
            )
    return listed


def load_pictures(
    images: Sequence[ImageSource], video: VideoSource | None, frames: int, policy: Policy, cancel: CancelToken
) -> list[NDArray[np.uint8]]:
    """The pixels of the pictures of one turn, each (height, width, 3) uint8 RGB; else as `open_pictures`."""
    return [picture.pixels for picture in open_pictures(images, video, frames, policy, cancel)]


def open_pictures(
    images: Sequence[ImageSource],
    video: VideoSource | None,
    frames: int,
    policy: Policy,
    cancel: CancelToken,
    check_memory: Callable[[Sequence[Size], bool], None] | None = None,
) -> list[Picture]:
    """Loads the pictures of one turn into the core.

    Args:
        images: As `sort_sources` left them.
        video: Instead of images.
        frames: To take of the video.
        policy: The session's choices; strict may leave pictures out, with a `Valley2Warning`.
        cancel: Stops at once, in the middle of a picture as well.
        check_memory: Given the sizes from the pictures' headers, before any is decoded; and whether they are frames.

    Returns:
        Pictures in their order.

    Raises:
        InputError: A picture or the video is unusable.
        BudgetError: As `check_memory` raises it.
        Cancelled: The token was set.
    """
    limit = policy.max_picture_pixels
    if video is not None:
        loaded = load_frames(video, frames, strict=policy.strict, max_pixels=limit, cancel=cancel)
        loaded.reverse()  # each frame goes when the core has it
        return [Picture.of_pixels(loaded.pop()) for _ in range(len(loaded))]
    most = policy.picture_limit()
    if most is not None and len(images) > most:
        message = f"Only the first {most} of {len(images)} pictures are used, as the reference does."
        warnings.warn(message, Valley2Warning, stacklevel=2)
    named = [
        (source, None if isinstance(source, (str, os.PathLike)) else f"Picture {number}")
        for number, source in enumerate(images[:most], 1)
    ]
    if check_memory is not None and named:
        sizes = [picture_size(source, name=name, max_pixels=limit) for source, name in named]
        # What is wrong with a shape is said with its place, once the pictures are there.
        with contextlib.suppress(InputError):
            check_memory(sizes, False)
    return [
        open_picture(source, strict=policy.strict, name=name, max_pixels=limit, cancel=cancel) for source, name in named
    ]
