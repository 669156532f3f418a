"""Draws the built-in calibration set: pictures and questions of the training half of the project's generator."""

from __future__ import annotations

from random import Random

from valley2_edge.calibration.mixture import draw_opens
from valley2_edge.calibration.samples import CalibrationSet, Sample, Turn, make_set
from valley2_edge.errors import InputError
from valley2_edge.eval.questions.dialogue import SCENES, thinking_turn
from valley2_edge.eval.questions.question import Question
from valley2_edge.eval.questions.scene import Choice, Scene

BUILTIN = "builtin"
CALIBRATION_SEED = 4_000_037
"""Seed of the built-in set; no training and no benchmark uses the same one."""
_KINDS = (
    "single", "pair", "single", "triple", "single", "show", "twin", "steps",
    "single", "triple", "single", "badge", "pair", "single", "trio", "motion",
)  # fmt: skip
_OPEN_TURNS = 5
_CHOICE_TURNS = 3
_THINKING_EVERY = 4
"""One sample in this many has an answer in the four tagged steps."""


def builtin_set(count: int, seed: int = CALIBRATION_SEED) -> CalibrationSet:
    """Draws the set; the same arguments give the same samples.

    A sample is a set of pictures or a clip with up to five questions that are answered in words (mixture.py), up to
    three with options, and in one of four samples one behind the think prompt.

    Args:
        count: Number of samples.
        seed: Seed of the samples.

    Raises:
        InputError: count is below 1.
    """
    if count < 1:
        raise InputError(f"A calibration set needs at least one sample, not {count}.")
    return make_set(BUILTIN, [_sample(seed, index) for index in range(count)])


def _sample(seed: int, index: int) -> Sample:
    random = Random(f"calibration {seed} {index}")
    scene = SCENES[_KINDS[index % len(_KINDS)]](random, "training")
    turns = [(one.question, one.answer) for one in draw_opens(random, scene.opens, _OPEN_TURNS)]
    turns += _choice_turns(random, scene)
    if scene.choices and index % _THINKING_EVERY == 0:
        turns.append(thinking_turn(random, scene, random.choice(scene.choices)))
    return Sample(
        name=f"sample {index}",
        turns=tuple(Turn(prompt, answer) for prompt, answer in turns),
        images=() if scene.video else scene.pictures,
        video=scene.pictures if scene.video else None,
    )


def _choice_turns(random: Random, scene: Scene) -> list[tuple[str, str]]:
    asked = random.sample(scene.choices, min(_CHOICE_TURNS, len(scene.choices)))
    return [(_prompt(random, one), one.right) for one in asked]


def _prompt(random: Random, asked: Choice) -> str:
    """The question with its options in random order."""
    options, right = asked.shuffled(random)
    return Question("calibration", asked.task, asked.question, options, right).prompt(right)
