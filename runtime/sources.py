"""What a question is about, as the caller names it: pictures, or the frames of a video."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.images import ImageSource, load_picture
from valley2_edge.runtime.video import VideoSource, is_video, load_frames


def sort_sources(
    images: Sequence[ImageSource], video: VideoSource | None
) -> tuple[Sequence[ImageSource], VideoSource | None]:
    """Takes the path of a video that stands among the pictures for the video.

    Raises:
        InputError: There are pictures and a video, or images is one picture and no list.
    """
    if isinstance(images, (str, bytes, os.PathLike)):
        raise InputError("images must be a list of pictures, not one picture.")
    videos = [source for source in images if isinstance(source, (str, os.PathLike)) and is_video(source)]
    if not videos:
        if video is not None and len(images):
            raise InputError("One question can be about pictures or about a video, not about both.")
        return list(images), video
    if len(images) > 1 or video is not None:
        raise InputError("One question can be about pictures or about one video, not about both.")
    return [], videos[0]


def load_pictures(
    images: Sequence[ImageSource], video: VideoSource | None, frames: int, policy: Policy, cancel: CancelToken
) -> list[NDArray[np.uint8]]:
    """Loads the pictures of one turn.

    Args:
        images: As `sort_sources` left them.
        video: Instead of images.
        frames: To take of the video.
        policy: The session's choices; strict may leave pictures out, with a `Valley2Warning`.
        cancel: Stops between two pictures.

    Returns:
        Pictures, each (height, width, 3) uint8 RGB.

    Raises:
        InputError: A picture or the video is unusable.
        Cancelled: The token was set.
    """
    if video is not None:
        return load_frames(video, frames, strict=policy.strict)
    limit = policy.picture_limit()
    if limit is not None and len(images) > limit:
        message = f"Only the first {limit} of {len(images)} pictures are used, as the reference does."
        warnings.warn(message, Valley2Warning, stacklevel=2)
    pixels = []
    for index, source in enumerate(images[:limit]):
        cancel.check()
        name = None if isinstance(source, (str, os.PathLike)) else f"Picture {index + 1}"
        pixels.append(load_picture(source, strict=policy.strict, name=name))
    return pixels
