"""Training samples: pictures with several questions about them, made from a seed, without end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from valley2_edge.eval.questions.product import Split, names
from valley2_edge.eval.questions.question import Question
from valley2_edge.eval.questions.scene import Choice, Scene
from valley2_edge.eval.questions.several import pair_scene, trio_scene, triple_scene, twin_scene
from valley2_edge.eval.questions.single import single_scene
from valley2_edge.eval.questions.video import badge_scene, motion_scene, show_scene, step_scene
from valley2_edge.runtime.core.prompt import with_thinking

Stage = Literal["broad", "annealing"]

_Maker = Callable[[Random, Split], Scene]
SCENES: dict[str, _Maker] = {
    "single": single_scene,
    "pair": pair_scene,
    "triple": triple_scene,
    "trio": trio_scene,
    "twin": twin_scene,
    "motion": lambda random, _: motion_scene(random),
    "show": lambda random, _: show_scene(random),
    "badge": lambda random, _: badge_scene(random),
    "steps": lambda random, _: step_scene(random),
}
"""The kinds of pictures and clips by name."""


@dataclass(frozen=True)
class _Phase:
    """What is shown and asked during a part of the training."""

    shares: Mapping[str, float]
    """How often each kind of scene occurs."""
    choice_share: float
    """Share of the questions that have options; the others are answered in words."""
    think_share: float
    turns: Mapping[str, int]
    """How many questions are drawn about a scene; one that was drawn before is asked once."""
    weights: Mapping[str, float]
    """Kinds of questions that are asked more or less often than the rest, whose weight is 1."""


_TURNS = {"single": 9, "pair": 5, "triple": 6, "motion": 4, "show": 5, "badge": 4, "steps": 5}
_READING = {"ocr": 3, "read_price": 3, "read_name": 3, "match": 0.2}
_BROAD = {"single": 0.5, "pair": 0.12, "triple": 0.12, "motion": 0.06, "show": 0.07, "badge": 0.06, "steps": 0.07}
COMPARING_FROM = 44_000
"""The dialogue from which on most questions are about what two or three pictures have in common."""
_PHASES: dict[int, _Phase] = {
    # Nearly all about one picture: reading comes before comparing
    0: _Phase(
        {"single": 0.86, "pair": 0.03, "triple": 0.03, "motion": 0.02, "show": 0.02, "badge": 0.02, "steps": 0.02},
        0.45, 0.01, _TURNS, {"match": 0.2},
    ),
    6_000: _Phase(_BROAD, 0.45, 0.01, _TURNS, {"match": 0.2}),
    # Prices and names take the longest to learn
    16_000: _Phase(_BROAD, 0.45, 0.01, _TURNS, _READING),
    # Whether a word fits a picture shows only in many questions: neither alone tells anything
    COMPARING_FROM: _Phase(
        {
            "single": 0.12, "pair": 0.06, "twin": 0.06, "triple": 0.22, "trio": 0.48,
            "motion": 0.02, "show": 0.02, "badge": 0.01, "steps": 0.01,
        },
        0.08, 0.01, _TURNS | {"single": 14, "pair": 10, "twin": 10, "triple": 16, "trio": 14},
        {
            "same": 4, "which": 12, "which_badge": 4, "which_colour": 12, "which_product": 10, "which_count": 10,
            "which_stars": 6,
        },
    ),
    # What a word of a question means on one card, and which of the cards it is: the two halves of the above
    49_600: _Phase(
        {
            "single": 0.40, "pair": 0.04, "triple": 0.26, "trio": 0.24,
            "motion": 0.02, "show": 0.02, "badge": 0.01, "steps": 0.01,
        },
        0.04, 0.01, _TURNS | {"single": 12, "pair": 8, "triple": 10, "trio": 8},
        {"match": 4, "read_name": 2, "read_price": 2, "which_badge": 12, "which_product": 12, "same": 0.5},
    ),
    # Both halves together, for a few kinds of words before the others
    61_200: _Phase(
        {
            "single": 0.10, "pair": 0.04, "triple": 0.24, "trio": 0.56,
            "motion": 0.02, "show": 0.02, "badge": 0.01, "steps": 0.01,
        },
        0.04, 0.01, _TURNS | {"single": 12, "pair": 8, "triple": 8, "trio": 8},
        {
            "match": 2, "read_name": 2, "read_price": 2, "which_badge": 2, "which_product": 12, "which_count": 12,
            "same": 0.5, "list": 0.3,
        },
    ),
    67_200: _Phase(
        {
            "single": 0.10, "pair": 0.04, "triple": 0.40, "trio": 0.40,
            "motion": 0.02, "show": 0.02, "badge": 0.01, "steps": 0.01,
        },
        0.15, 0.01, _TURNS | {"single": 12, "pair": 8, "triple": 10, "trio": 8},
        {
            "match": 1, "read_name": 2, "read_price": 2, "which_product": 5, "which_count": 5, "which_colour": 14,
            "which_stars": 3, "which": 12, "same": 0.5, "list": 0.3, "several": 2,
        },
    ),
}  # fmt: skip
"""The phases of the broad stage, by the dialogue that they begin with."""
_ANNEALING = _Phase(
    {
        "single": 0.62, "pair": 0.08, "twin": 0.01, "triple": 0.13, "trio": 0.03,
        "motion": 0.02, "show": 0.04, "badge": 0.03, "steps": 0.04,
    },
    0.55, 0.02, _TURNS | {"single": 10, "pair": 8, "twin": 6, "triple": 10, "trio": 8},
    {"ocr": 8, "read_price": 2, "read_name": 8, "match": 0.1, "which": 3, "which_product": 3, "which_count": 3},
)  # fmt: skip
_GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Dialogue:
    """Pictures and questions about them, each asked on its own: not a conversation."""

    pictures: tuple[Image.Image, ...]
    """Pictures in mode RGB; the frames when it is a clip."""
    video: bool
    turns: tuple[tuple[str, str], ...]
    """The user's text and the right answer."""


def training_dialogue(seed: int, index: int, stage: Stage) -> Dialogue:
    """Makes one sample; the same arguments give the same sample.

    Args:
        seed: Random seed of the whole training.
        index: Index of the sample in the training.
        stage: "broad", or "annealing": more of the benchmark's kind of question.
    """
    random = Random(f"training {seed} {index} {stage}")
    phase = _phase(index, stage)
    kind = _spread_kind(index, phase.shares)
    scene = SCENES[kind](random, "training")
    turns: list[tuple[str, str]] = []
    for _ in range(phase.turns[kind]):
        turn = _turn(random, scene, phase)
        if turn not in turns:
            turns.append(turn)
    return Dialogue(scene.pictures, scene.video, tuple(turns))


def thinking_turn(random: Random, scene: Scene, asked: Choice) -> tuple[str, str]:
    """A choice behind the think prompt, with an answer in the four tagged steps."""
    steps = (
        f"<SUMMARY>{asked.question}</SUMMARY><CAPTION>{scene.caption}</CAPTION>"
        f"<REASONING>{asked.right}</REASONING><CONCLUSION>{asked.right}</CONCLUSION>"
    )
    return with_thinking(_prompt(random, asked)), steps


def text_corpus(count: int) -> Iterator[str]:
    """Texts such as training shows, question and answer together, for a tokenizer to learn from.

    Names are left out: one that had become a token of its own would never be spelt, and an unknown one not be read.

    Args:
        count: Dialogues whose texts are taken.
    """
    every_name = re.compile("|".join(names("training")))
    for index in range(count):
        for question, answer in training_dialogue(0, index, "annealing").turns:
            yield every_name.sub("", f"{question}\n{answer}")


def _phase(index: int, stage: Stage) -> _Phase:
    """The phase that a sample belongs to."""
    return _ANNEALING if stage == "annealing" else _PHASES[max(first for first in _PHASES if first <= index)]


def _spread_kind(index: int, shares: Mapping[str, float]) -> str:
    """The kind of a sample: any few neighbours in the sequence have nearly the shares of the whole."""
    place = index * _GOLDEN_RATIO % 1 * sum(shares.values())
    for kind, share in shares.items():
        place -= share
        if place < 0:
            return kind
    return kind


def _turn(random: Random, scene: Scene, phase: _Phase) -> tuple[str, str]:
    """A question about the scene and its answer."""
    # Scenes that only train have no questions with options
    if scene.choices and random.random() < phase.think_share:
        return thinking_turn(random, scene, random.choice(scene.choices))
    if scene.choices and random.random() < phase.choice_share:
        asked = random.choices(scene.choices, [phase.weights.get(one.task, 1) for one in scene.choices])[0]
        return _prompt(random, asked), asked.right
    opened = random.choices(scene.opens, [phase.weights.get(one.kind, 1) for one in scene.opens])[0]
    return opened.question, opened.answer


def _prompt(random: Random, asked: Choice) -> str:
    """The choice with its options in random order."""
    options, right = asked.shuffled(random)
    return Question("training", asked.task, asked.question, options, right).prompt(right)
