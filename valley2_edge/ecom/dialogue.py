"""Training samples: pictures with several questions about them, made from a seed, without end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from PIL import Image

from valley2_edge.ecom.product import Split, names
from valley2_edge.ecom.question import Question
from valley2_edge.ecom.scene import Choice, Scene
from valley2_edge.ecom.several import pair_scene, triple_scene
from valley2_edge.ecom.single import single_scene
from valley2_edge.ecom.video import badge_scene, motion_scene, show_scene, step_scene
from valley2_edge.prompt import with_thinking

_T = TypeVar("_T")

Stage = Literal["broad", "annealing"]

_Maker = Callable[[Random, Split], Scene]
SCENES: dict[str, _Maker] = {
    "single": single_scene,
    "pair": pair_scene,
    "triple": triple_scene,
    "motion": lambda random, _: motion_scene(random),
    "show": lambda random, _: show_scene(random),
    "badge": lambda random, _: badge_scene(random),
    "steps": lambda random, _: step_scene(random),
}
"""The kinds of pictures and clips by name."""

_Shares = dict[str, float]
_SHARES: dict[Stage, _Shares] = {
    "broad": {"single": 0.5, "pair": 0.12, "triple": 0.12, "motion": 0.06, "show": 0.07, "badge": 0.06, "steps": 0.07},
    "annealing": {
        "single": 0.38, "pair": 0.18, "triple": 0.18, "motion": 0.05, "show": 0.07, "badge": 0.06, "steps": 0.08,
    },
}  # fmt: skip
_FIRST_SHARES: _Shares = {
    "single": 0.86, "pair": 0.03, "triple": 0.03, "motion": 0.02, "show": 0.02, "badge": 0.02, "steps": 0.02,
}  # fmt: skip
_FIRST_DIALOGUES = 6000
"""Nearly all about one picture: reading comes before comparing."""
_READING_FROM = 16_000
"""From this dialogue on prices and names are asked for more often: they take the longest to learn."""
_READING_WEIGHT = 3
_READING = ("ocr", "read_price", "read_name")
_COMPARING_SHARES: _Shares = {
    "single": 0.36, "pair": 0.24, "triple": 0.24, "motion": 0.03, "show": 0.04, "badge": 0.03, "steps": 0.06,
}  # fmt: skip
_COMPARING_FROM = 44_000
"""From this dialogue on more of two and three pictures: what they show must be read before it can be compared."""
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_TURNS = {"single": 9, "pair": 9, "triple": 10, "motion": 4, "show": 5, "badge": 4, "steps": 5}
"""How many questions are drawn; one that was drawn before is asked once."""
_CHOICE_SHARE: dict[Stage, float] = {"broad": 0.4, "annealing": 0.6}
_THINK_SHARE: dict[Stage, float] = {"broad": 0.01, "annealing": 0.04}


@dataclass(frozen=True)
class Dialogue:
    """Pictures and questions about them, each asked on its own: not a conversation."""

    pictures: tuple[Image.Image, ...]
    """Mode RGB; the frames when it is a clip."""
    video: bool
    turns: tuple[tuple[str, str], ...]
    """The user's text and the right answer."""


def training_dialogue(seed: int, index: int, stage: Stage) -> Dialogue:
    """Makes one sample; the same arguments give the same sample.

    Args:
        seed: Of the whole training.
        index: Of the sample.
        stage: "broad", or "annealing": more of the benchmark's kind of question.
    """
    random = Random(f"training {seed} {index} {stage}")
    kind = _spread_kind(index, _shares(index, stage))
    scene = SCENES[kind](random, "training")
    turns: list[tuple[str, str]] = []
    for _ in range(_TURNS[kind]):
        turn = _turn(random, scene, stage, index)
        if turn not in turns:
            turns.append(turn)
    return Dialogue(scene.pictures, scene.video, tuple(turns))


def _turn(random: Random, scene: Scene, stage: Stage, index: int) -> tuple[str, str]:
    """A question about the scene and its answer."""
    if random.random() < _THINK_SHARE[stage]:
        return thinking_turn(random, scene, random.choice(scene.choices))
    if random.random() < _CHOICE_SHARE[stage]:
        asked = _draw(random, scene.choices, [one.task for one in scene.choices], index)
        return _prompt(random, asked), asked.right
    opened = _draw(random, scene.opens, [one.kind for one in scene.opens], index)
    return opened.question, opened.answer


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


def _shares(index: int, stage: Stage) -> _Shares:
    """How often each kind of scene occurs around a sample."""
    if stage == "annealing":
        return _SHARES["annealing"]
    if index < _FIRST_DIALOGUES:
        return _FIRST_SHARES
    return _SHARES["broad"] if index < _COMPARING_FROM else _COMPARING_SHARES


def _spread_kind(index: int, shares: _Shares) -> str:
    """The kind of a sample: any few neighbours in the sequence have nearly the shares of the whole."""
    place = index * _GOLDEN_RATIO % 1 * sum(shares.values())
    for kind, share in shares.items():
        place -= share
        if place < 0:
            return kind
    return kind


def _draw(random: Random, questions: Sequence[_T], kinds: Sequence[str], index: int) -> _T:
    """One of the questions, whose kinds are given, for the sample of that index."""
    if index < _READING_FROM:
        return random.choice(questions)
    return random.choices(questions, [_READING_WEIGHT if kind in _READING else 1 for kind in kinds])[0]


def _prompt(random: Random, asked: Choice) -> str:
    """The choice with its options in random order."""
    options, right = asked.shuffled(random)
    return Question("training", asked.task, asked.question, options, right).prompt(right)
