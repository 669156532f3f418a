"""Training samples: pictures with several questions about them, made from a seed, without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from valley2_edge.ecom.product import Split
from valley2_edge.ecom.question import LETTERS, Question
from valley2_edge.ecom.scene import Choice, Scene
from valley2_edge.ecom.several import pair_scene, triple_scene
from valley2_edge.ecom.single import single_scene
from valley2_edge.ecom.video import badge_scene, motion_scene, show_scene, step_scene
from valley2_edge.prompt import with_thinking

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

_SHARES: dict[Stage, dict[str, float]] = {
    "broad": {"single": 0.56, "pair": 0.11, "triple": 0.11, "motion": 0.05, "show": 0.06, "badge": 0.05, "steps": 0.06},
    "annealing": {
        "single": 0.46, "pair": 0.13, "triple": 0.13, "motion": 0.06, "show": 0.08, "badge": 0.06, "steps": 0.08,
    },
}  # fmt: skip
_TURNS = {"single": 8, "pair": 5, "triple": 6, "motion": 4, "show": 5, "badge": 4, "steps": 5}
_CHOICE_SHARE: dict[Stage, float] = {"broad": 0.5, "annealing": 0.7}
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
    shares = _SHARES[stage]
    kind = random.choices(list(shares), list(shares.values()))[0]
    scene = SCENES[kind](random, "training")
    turns = []
    for _ in range(_TURNS[kind]):
        if random.random() < _THINK_SHARE[stage]:
            turns.append(thinking_turn(random, scene, random.choice(scene.choices)))
        elif random.random() < _CHOICE_SHARE[stage]:
            question, answer = _ask(random, random.choice(scene.choices))
            turns.append((question.prompt(answer), LETTERS[answer]))
        else:
            asked = random.choice(scene.opens)
            turns.append((asked.question, asked.answer))
    return Dialogue(scene.pictures, scene.video, tuple(turns))


def thinking_turn(random: Random, scene: Scene, asked: Choice) -> tuple[str, str]:
    """A choice behind the think prompt, with an answer in the four tagged steps."""
    question, answer = _ask(random, asked)
    letter = LETTERS[answer]
    steps = (
        f"<SUMMARY>{asked.question}</SUMMARY><CAPTION>{scene.caption}</CAPTION>"
        f"<REASONING>{asked.right} is {letter}</REASONING><CONCLUSION>{letter}</CONCLUSION>"
    )
    return with_thinking(question.prompt(answer)), steps


def text_corpus(count: int) -> Iterator[str]:
    """Texts such as training shows, question and answer together, for a tokenizer to learn from."""
    for index in range(count):
        for question, answer in training_dialogue(0, index, "annealing").turns:
            yield f"{question}\n{answer}"


def _ask(random: Random, asked: Choice) -> tuple[Question, int]:
    """The choice as a question, and where its right option shall stand."""
    options, right = asked.shuffled(random)
    return Question("training", asked.task, asked.question, options, right), right
