"""A question to a session, as it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from valley2_edge.options import SamplingOptions
from valley2_edge.runtime.media.images import ImageSource
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.runtime.progress import ProgressCallback


@dataclass(frozen=True)
class Request:
    """What `Session.ask` was asked."""

    question: str
    think: bool
    """Ask for the four-step answer."""
    images: Sequence[ImageSource]
    video: VideoSource | None
    frames: int
    sampling: SamplingOptions
    report: ProgressCallback
