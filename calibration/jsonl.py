"""Reads the user's own calibration data, with one JSON object in each line (docs/quantization.md)."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from valley2_edge.calibration.samples import CalibrationSet, Sample, Turn, make_set
from valley2_edge.config import first_problem
from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.outside_files import check_file_name, json_object, parse_json, text_lines
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media.sources import load_pictures, sort_sources

MOST_BROKEN = 0.05
"""Largest share of broken lines in a set that is used all the same."""
FRAMES = 8
"""Number of frames that a sample takes from a video."""
HELD_OUT_EVERY = 8
"""At most one line in so many is held out."""
_FEWEST_HELD_OUT = 2
"""A single line would be held out in vain: it has no interval."""
_NAMED = 5  # broken lines that a message names

_Word = Annotated[str, Field(strict=True, min_length=1, pattern=r"\S")]
_File = Annotated[_Word, AfterValidator(check_file_name)]


class CalibrationLine(BaseModel):
    """One line of the file; paths are relative to it."""

    model_config = ConfigDict(extra="forbid")

    images: list[_File] = []
    video: _File | None = None
    """Path of a video or an animated picture."""
    prompt: _Word
    answer: _Word

    @model_validator(mode="after")
    def _check(self) -> CalibrationLine:
        if not self.images and "images" in self.model_fields_set:
            raise ValueError("images is empty: leave it out of a sample without pictures")
        if self.images and self.video is not None:
            raise ValueError("only one of images and video may be given")
        return self

    def to_sample(self, name: str, directory: Path) -> Sample:
        """Makes the sample.

        Args:
            name: The sample's name, for messages.
            directory: The directory that the paths are relative to.
        """
        images = tuple(directory / image for image in self.images)
        video = None if self.video is None else directory / self.video
        return Sample(name, (Turn(self.prompt, self.answer),), images, video)


def read_calibration_file(path: str | os.PathLike[str], count: int | None = None) -> CalibrationSet:
    """Reads a file of samples and loads each of their pictures once; empty lines are skipped.

    A line that is broken, or whose pictures are, is left out with a `Valley2Warning` that names it.

    Args:
        path: The file.
        count: Largest number of samples, which are spread evenly over the file; None means all.

    Raises:
        InputError: The file is missing or has no sample, or more than 5 % of its lines are broken.
    """
    return read_and_hold_out(path, count, 0)[0]


def read_and_hold_out(
    path: str | os.PathLike[str], count: int | None, held_out: int
) -> tuple[CalibrationSet, CalibrationSet | None]:
    """Reads a file of samples and holds some of them out: a bundle is measured on these and never rounded on them.

    Of n lines at most n / 8 are held out, which then lie evenly in the file; where that is one line or none, none is.

    Args:
        path: The file.
        count: As in `read_calibration_file`, of the lines that are not held out.
        held_out: Largest number of samples to be held out.

    Returns:
        The samples to be rounded on, and those that are held out, or None.

    Raises:
        InputError: As in `read_calibration_file`.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise InputError(f"There is no calibration file at {path}.")
    numbered = list(text_lines(path, InputError))
    apart = _held_out_places(len(numbered), held_out)
    rest = [place for place in range(len(numbered)) if place not in apart]
    if count is not None and len(rest) > count:
        rest = [rest[index * len(rest) // count] for index in range(count)]
    samples: list[Sample] = []
    kept: list[Sample] = []
    broken: list[str] = []
    places = sorted({*rest, *apart})
    for place in places:
        number, line = numbered[place]
        try:
            sample = _parse(line).to_sample(f"line {number}", path.parent)
            _check_pictures(sample)
        except InputError as error:
            broken.append(f"line {number}: {str(error).rstrip('.')}")
        else:
            (kept if place in apart else samples).append(sample)
    if broken:
        _report_broken(path, broken, len(places))
    return make_set(path.name, samples, broken), make_set(path.name, kept) if kept else None


def _held_out_places(lines: int, most: int) -> frozenset[int]:
    count = min(most, lines // HELD_OUT_EVERY)
    if count < _FEWEST_HELD_OUT:
        return frozenset()
    return frozenset((2 * index + 1) * lines // (2 * count) for index in range(count))


def _report_broken(path: Path, broken: list[str], total: int) -> None:
    named = "; ".join(broken[:_NAMED]) + (f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else "")
    if len(broken) > MOST_BROKEN * total:
        raise InputError(
            f"{len(broken)} of the {total} calibration samples of {path} are broken, more than "
            f"{100 * MOST_BROKEN:.0f} %: {named}."
        )
    warnings.warn(
        f"{len(broken)} of the {total} calibration samples of {path} are left out: {named}.",
        Valley2Warning,
        stacklevel=4,
    )


def _parse(line: str) -> CalibrationLine:
    values = json_object(parse_json(line, "it", InputError), "it", InputError)
    try:
        return CalibrationLine.model_validate(values)
    except ValidationError as error:
        raise InputError(first_problem(error)) from error


def _check_pictures(sample: Sample) -> None:
    images, video = sort_sources(sample.images, sample.video)
    load_pictures(images, video, FRAMES, Policy(), CancelToken())
