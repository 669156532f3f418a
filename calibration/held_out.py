"""Draws held-out samples to measure a bundle's quality: pictures of the test half and questions about them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from valley2_edge.calibration.mixture import READING, draw_opens
from valley2_edge.calibration.samples import CalibrationSet, Sample, Turn, content_sha256
from valley2_edge.errors import InputError
from valley2_edge.eval.questions.dialogue import SCENES
from valley2_edge.eval.questions.question import LETTERS, Question

_KINDS = ("single", "pair", "single", "triple", "single", "show", "single", "steps", "badge", "motion")
_OPEN_TURNS = 3

ProbeKind = Literal["choice", "reading", "open"]


@dataclass(frozen=True)
class HeldOutSample:
    """One set of pictures and its turns, or a line of the user's own."""

    sample: Sample
    question: Question | None
    """The question with options; None for a line of the user's own."""
    kinds: tuple[ProbeKind, ...]
    """The kind of each turn; "choice" comes four times in a row, once for each order of the options."""


@dataclass(frozen=True)
class HeldOutSet:
    """Samples that no training and no calibration has seen."""

    samples: tuple[HeldOutSample, ...]
    """The generator's samples, then the user's own lines."""
    sha256: str
    """SHA-256 of the generator's samples."""
    own_text: CalibrationSet | None = None
    """The user's own lines, where there are any."""


def held_out_set(count: int, seed: int = 0, own_text: CalibrationSet | None = None) -> HeldOutSet:
    """Draws the set; the same arguments give the same samples.

    A sample has one question with options, in its four orders, and up to three open ones (mixture.py), among them a
    price or a name to be read where that is asked about the pictures. Names and prices are those of the generator's
    test half.

    Args:
        count: Number of samples of the generator.
        seed: Seed of the samples.
        own_text: Lines of the user's own, held out of the calibration; each is one open turn.

    Raises:
        InputError: count is below 1.
    """
    if count < 1:
        raise InputError(f"The quality needs at least one sample, not {count}.")
    drawn = tuple(_sample(seed, index) for index in range(count))
    own: list[HeldOutSample] = []
    for sample in () if own_text is None else own_text.samples:
        kinds: list[ProbeKind] = ["open"] * len(sample.turns)
        own.append(HeldOutSample(sample, None, tuple(kinds)))
    return HeldOutSet((*drawn, *own), content_sha256([held.sample for held in drawn]), own_text)


def _sample(seed: int, index: int) -> HeldOutSample:
    random = Random(f"test quality {seed} {index}")
    scene = SCENES[_KINDS[index % len(_KINDS)]](random, "test")
    asked = random.choice(scene.choices)
    options, answer = asked.shuffled(random)
    question = Question(f"quality-{index:04d}", asked.task, asked.question, options, answer)
    turns = [Turn(question.prompt(rotation), options[answer]) for rotation in range(len(LETTERS))]
    kinds: list[ProbeKind] = ["choice"] * len(LETTERS)
    for one in draw_opens(random, scene.opens, _OPEN_TURNS):
        turns.append(Turn(one.question, one.answer))
        kinds.append("reading" if one.kind in READING else "open")
    sample = Sample(
        f"held-out sample {index}",
        tuple(turns),
        images=() if scene.video else scene.pictures,
        video=scene.pictures if scene.video else None,
    )
    return HeldOutSample(sample, question, tuple(kinds))
