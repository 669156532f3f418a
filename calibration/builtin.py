"""Makes the built-in calibration set: dialogues about pictures of the project's generator, and the shipped texts."""

from __future__ import annotations

from random import Random

from valley2_edge.calibration.mixture import draw_opens
from valley2_edge.calibration.samples import CalibrationSet, Sample, Turn, make_set
from valley2_edge.calibration.shipped_texts import count_texts, shipped_texts
from valley2_edge.errors import InputError
from valley2_edge.eval.questions.dialogue import SCENES, thinking_turn
from valley2_edge.eval.questions.question import Question
from valley2_edge.eval.questions.scene import Choice, Scene

BUILTIN = "builtin"
BUILTIN_SAMPLES = 17
"""Default number of samples of the set: about 9,500 tokens of the released model, 2,400 of them of pictures."""
DIALOGUE_EVERY = 4
"""One sample in this many is a dialogue about pictures, the others are texts."""
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


def builtin_set(count: int = BUILTIN_SAMPLES, seed: int = CALIBRATION_SEED) -> CalibrationSet:
    """Makes the set; the same arguments give the same samples.

    One sample in four is a dialogue, which is there from one sample on. It is a set of pictures or a clip with up to
    five questions that are answered in words (mixture.py), up to three with options, and in one of four dialogues one
    behind the think prompt. The other samples are texts, of each kind as many as is its share of all lines.

    Args:
        count: Largest number of samples; the set ends where all texts are in it.
        seed: Seed of the dialogues.

    Raises:
        InputError: count is below 1.
    """
    if count < 1:
        raise InputError(f"A calibration set needs at least one sample, not {count}.")
    texts = sum(count_texts().values())
    count = min(count, texts + -(-texts // (DIALOGUE_EVERY - 1)))
    dialogues = -(-count // DIALOGUE_EVERY)
    samples = [_dialogue(seed, index) for index in range(dialogues)]
    return make_set(BUILTIN, samples + shipped_texts(count - dialogues))


def _dialogue(seed: int, index: int) -> Sample:
    random = Random(f"calibration {seed} {index}")
    scene = SCENES[_KINDS[index % len(_KINDS)]](random, "training")
    turns = [(one.question, one.answer) for one in draw_opens(random, scene.opens, _OPEN_TURNS)]
    turns += _choice_turns(random, scene)
    if scene.choices and index % _THINKING_EVERY == 0:
        turns.append(thinking_turn(random, scene, random.choice(scene.choices)))
    return Sample(
        name=f"dialogue {index}",
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
