"""Calibration samples, which are pictures with questions and answers, and the hash of a set of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from valley2_edge.errors import InputError
from valley2_edge.runtime.media.images import ImageSource, load_picture
from valley2_edge.runtime.media.source_file import open_source


@dataclass(frozen=True)
class Turn:
    """A question about the pictures and its right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """Pictures or a clip with one or several turns, each asked on its own: not a conversation."""

    name: str
    """The sample's name for messages, for example "line 7"."""
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()
    video: str | Path | tuple[ImageSource, ...] | None = None
    """Path of a video, or the frames of a clip."""


@dataclass(frozen=True)
class CalibrationSet:
    """Samples that a decoder is shown while it is rounded."""

    name: str
    """"builtin", or the name of the file."""
    samples: tuple[Sample, ...]
    sha256: str
    """Hash of everything that the samples contain, pictures included."""
    broken: tuple[str, ...] = ()
    """A sentence about each sample that was left out."""


def make_set(name: str, samples: Sequence[Sample], broken: Sequence[str] = ()) -> CalibrationSet:
    """Makes a set with its hash.

    Args:
        name: Name of the set.
        samples: The samples, in the order in which they are used.
        broken: A sentence about each sample that was left out.

    Raises:
        InputError: There is no sample, or a file cannot be read.
    """
    if not samples:
        raise InputError(f"The calibration set {name} is empty.")
    return CalibrationSet(name, tuple(samples), content_sha256(samples), tuple(broken))


def without_pictures(calibration: CalibrationSet) -> CalibrationSet:
    """The same questions and answers without pictures, for a calibration on text alone.

    Args:
        calibration: The set.
    """
    samples = [replace(sample, images=(), video=None) for sample in calibration.samples]
    return make_set(f"{calibration.name} (text only)", samples, calibration.broken)


def content_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 over the turns and the pictures' own bytes, which does not depend on where the files lie.

    Args:
        samples: The samples, in their order.

    Raises:
        InputError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for sample in samples:
        turns = [[turn.prompt, turn.answer] for turn in sample.turns]
        kind = "video" if sample.video is not None else "images"
        digest.update(json.dumps([kind, turns], ensure_ascii=False).encode())
        for source in _sources(sample):
            digest.update(_source_sha256(source))
    return digest.hexdigest()


def _sources(sample: Sample) -> Iterator[ImageSource]:
    yield from sample.images
    if isinstance(sample.video, (str, Path)):
        yield sample.video
    elif sample.video is not None:
        yield from sample.video


def _source_sha256(source: ImageSource) -> bytes:
    digest = hashlib.sha256()
    if isinstance(source, (str, os.PathLike)):
        try:
            with open_source(source, "picture") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}.") from error
    elif isinstance(source, (bytes, bytearray, memoryview)):
        digest.update(source)
    else:
        pixels = np.asarray(source) if isinstance(source, Image.Image) else load_picture(source)
        digest.update(str(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.digest()
