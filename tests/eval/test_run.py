"""Asking the questions of a benchmark, of models that are made up."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from valley2_edge.errors import InputError
from valley2_edge.eval.questions.question import LETTERS, Question
from valley2_edge.eval.run import CHOICE_TOKENS, THINK_TOKENS, ask_all
from valley2_edge.eval.scoring import score
from valley2_edge.runtime.inquiry import Reply
from valley2_edge.runtime.media.images import ImageSource, load_picture
from valley2_edge.runtime.media.video import VideoSource

COLOURS = ("red", "green", "blue", "white")


class FakeModel:
    """Sees the options of a prompt and says what its rule says."""

    def __init__(self, rule: Callable[[list[str]], str]) -> None:
        self.rule = rule
        self.shown: list[tuple[Sequence[ImageSource], VideoSource | None]] = []
        self.limits: set[int] = set()
        self.prompts: list[str] = []

    def show(self, images: Sequence[ImageSource] = (), *, video: VideoSource | None = None, frames: int = 8) -> None:
        for image in images:
            load_picture(image)
        self.shown.append((images, video))

    def ask(self, question: str, *, max_new_tokens: int = 64, think: bool = False) -> Reply:
        self.limits.add(max_new_tokens)
        self.prompts.append(question)
        return Reply(self.rule([line[3:] for line in question.splitlines()[1:5]]), ())


def questions(count: int, task: str = "ocr") -> list[Question]:
    """Questions whose right option is always red."""
    made = []
    for index in range(count):
        options = random.Random(index).sample(COLOURS, 4)
        made.append(Question(f"{task}-{index}", task, "Which?", tuple(options), options.index("red")))
    return made


def test_model_that_knows_is_right() -> None:
    model = FakeModel(lambda options: LETTERS[options.index("red")])
    outcomes = ask_all(model, questions(5))
    assert all(outcome.right for outcome in outcomes)
    assert [outcome.identifier for outcome in outcomes] == [f"ocr-{index}" for index in range(5)]


def test_favourite_letter_is_never_right_in_four_orders() -> None:
    found = score(ask_all(FakeModel(lambda options: "B"), questions(20)))
    assert found.average.value == 0
    assert found.plain_average == 0.25


def test_favourite_option_is_right_as_often_as_it_is_the_answer() -> None:
    model = FakeModel(lambda options: LETTERS[options.index("green")])
    assert score(ask_all(model, questions(20))).average.value == 0


def test_pictures_are_shown_once_for_four_orders() -> None:
    model = FakeModel(lambda options: "A")
    ask_all(model, questions(3))
    assert len(model.shown) == 3
    assert len(set(model.prompts)) == len(model.prompts) == 12


def test_pictures_and_videos_reach_the_model_unless_the_text_is_all() -> None:
    import numpy as np

    pixels = np.zeros((2, 2, 3), np.uint8)
    asked = [
        Question("1", "ocr", "?", COLOURS, 0, images=(pixels,)),
        Question("2", "ocr", "?", COLOURS, 0, video=(pixels, pixels)),
    ]
    model = FakeModel(lambda options: "A")
    ask_all(model, asked)
    assert model.shown == [((pixels,), None), ((), (pixels, pixels))]
    model.shown.clear()
    ask_all(model, asked, text_only=True)
    assert model.shown == [((), None)] * 2


def test_four_steps_may_be_longer() -> None:
    model = FakeModel(lambda options: "A")
    ask_all(model, questions(1))
    ask_all(model, questions(1), think=True)
    assert model.limits == {CHOICE_TOKENS, THINK_TOKENS}


def test_progress_counts_questions() -> None:
    told: list[tuple[int, int]] = []
    ask_all(FakeModel(lambda options: "A"), questions(2), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_unusable_picture_names_its_question(tmp_path: Path) -> None:
    broken = Question("photo-7", "ocr", "?", COLOURS, 0, images=(tmp_path / "none.png",))
    with pytest.raises(InputError, match=r"Question photo-7: There is no picture at .*none\.png"):
        ask_all(FakeModel(lambda options: "A"), [broken])
