"""A question to a session, as it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from valley2_edge.runtime.core.sampling import Sampling
from valley2_edge.runtime.media.images import ImageSource
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.runtime.progress import ProgressCallback

MAX_FRAMES = 2**32 - 1


@dataclass(frozen=True)
class Request:
    """What `Session.ask` was asked."""

    asked: str
    """As the caller wrote it."""
    text: str
    """As the model reads it."""
    images: Sequence[ImageSource]
    video: VideoSource | None
    frames: int
    sampling: Sampling
    report: ProgressCallback
