"""Frames of a video, evenly spread: of a file, of an animated picture, or of a list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.errors import InputError
from valley2_edge.runtime.images import ImageSource, load_picture

VideoSource = str | os.PathLike[str] | Sequence[ImageSource]
"""The path of a video or of an animated picture, or the frames themselves in their order."""

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".mts", ".m2ts"}
)
ANIMATION_EXTENSIONS = frozenset({".gif", ".webp", ".png", ".apng"})
"""Of pictures that may move: Pillow reads their frames."""


def is_video(path: object) -> bool:
    """Whether a source is the path of a video, judged by its extension."""
    return isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() in VIDEO_EXTENSIONS


def load_frames(source: VideoSource, frames: int = 8, *, strict: bool = False) -> list[NDArray[np.uint8]]:
    """Loads the frames that the model sees of a video.

    Of a video file there are always `frames` of them, as the reference's rule has it. Of a list, and of an animated
    picture (.gif, .webp, .png), there are all when they are `frames` at most, and otherwise `frames` of them, spread
    by the same rule; none is repeated.

    Args:
        source: Path, or frames.
        frames: How many.
        strict: Reproduce the reference where a frame is a picture of its own (`load_picture`).

    Returns:
        Pictures, each (height, width, 3) uint8 RGB.

    Raises:
        InputError: frames is below 1, the list is empty, or a file or a frame is unusable.
    """
    if frames < 1:
        raise InputError(f"frames must be at least 1, not {frames}.")
    if isinstance(source, (str, os.PathLike)):
        animated = Path(source).suffix.lower() in ANIMATION_EXTENSIONS
        return _read_animation(Path(source), frames, strict) if animated else read_frames(source, frames)
    if isinstance(source, (bytes, bytearray, memoryview)) or not isinstance(source, Sequence):
        raise InputError(f"A video must be a path or a list of frames, not {type(source)}.")
    if not source:
        raise InputError("The video has no frame.")
    chosen = [(place, source[place]) for place in _places_once(len(source), frames)]
    return [load_picture(frame, strict=strict, name=_name_of_frame(frame, place)) for place, frame in chosen]


def read_frames(path: str | os.PathLike[str], frames: int = 8) -> list[NDArray[np.uint8]]:
    """Reads frames spread evenly over a video file, the first and the last included.

    A video with fewer frames repeats some, as the reference's rule does.

    Args:
        path: The video file.
        frames: How many.

    Returns:
        `frames` pictures, each (height, width, 3) uint8 RGB: the frames number int(linspace(0, count - 1, frames)).

    Raises:
        InputError: OpenCV is not installed, or the file is missing, no video, or has no readable frame.
    """
    if frames < 1:
        raise InputError(f"frames must be at least 1, not {frames}.")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no video at {path}.")
    capture = _opencv().VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(f"{path} is not a video that OpenCV can read.")
        return _spread(capture, path, frames)
    finally:
        capture.release()


def _read_animation(path: Path, frames: int, strict: bool) -> list[NDArray[np.uint8]]:
    if not path.is_file():
        raise InputError(f"There is no animated picture at {path}.")
    pictures = []
    try:
        with Image.open(path) as image:
            for place in _places_once(getattr(image, "n_frames", 1), frames):
                image.seek(place)
                # A copy is one still picture, the frame as a viewer shows it.
                pictures.append(load_picture(image.copy(), strict=strict, name=f"Frame {place + 1} of {path}"))
    except (InputError, MemoryError):
        raise
    # Pillow's readers raise nearly anything for a damaged file.
    except Exception as error:
        raise InputError(f"{path} is damaged or no animated picture that Pillow can read.") from error
    return pictures


def _name_of_frame(frame: ImageSource, place: int) -> str | None:
    return None if isinstance(frame, (str, os.PathLike)) else f"Frame {place + 1}"


def _opencv() -> ModuleType:
    # Read when OpenCV loads its backend: without it FFmpeg writes its own complaints to stderr.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        import cv2
    except ImportError as error:
        raise InputError('Videos need OpenCV: pip install "valley2-edge[video]".') from error
    module: ModuleType = cv2
    return module


def _spread(capture: Any, path: Path, frames: int) -> list[NDArray[np.uint8]]:
    cv2 = _opencv()
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    pictures = _read_at(capture, _places(count, frames)) if count > 0 else None
    if pictures is None:
        # The container does not say how many frames there are, or promises more than it holds.
        count = _count_frames(capture)
        pictures = _read_at(capture, _places(count, frames)) if count > 0 else None
    if pictures is None:
        raise InputError(f"{path} has no readable frame.")
    return pictures


def _places(count: int, frames: int) -> list[int]:
    return [int(place) for place in np.linspace(0, count - 1, frames)]


def _places_once(count: int, frames: int) -> list[int]:
    return _places(count, min(count, frames))


def _read_at(capture: Any, places: list[int]) -> list[NDArray[np.uint8]] | None:
    cv2 = _opencv()
    pictures: list[NDArray[np.uint8]] = []
    for index, place in enumerate(places):
        if index and place == places[index - 1]:
            pictures.append(pictures[-1])
            continue
        capture.set(cv2.CAP_PROP_POS_FRAMES, place)
        found, frame = capture.read()
        if not found:
            return None
        pictures.append(np.ascontiguousarray(frame[:, :, ::-1]))  # (height, width, BGR) to RGB
    return pictures


def _count_frames(capture: Any) -> int:
    capture.set(_opencv().CAP_PROP_POS_FRAMES, 0)
    count = 0
    while capture.grab():
        count += 1
    return count
