"""Asks a model the questions of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from valley2_edge.errors import InputError
from valley2_edge.eval.questions.question import OpenQuestion, Question
from valley2_edge.eval.scoring import ROTATIONS, Outcome, chosen_letter
from valley2_edge.runtime.inquiry import Reply
from valley2_edge.runtime.media.images import ImageSource
from valley2_edge.runtime.media.video import VideoSource

CHOICE_TOKENS = 32
"""Most tokens of an answer that is an option."""
THINK_TOKENS = 512
"""Most tokens of an answer in four steps."""

Progress = Callable[[int, int], None]
"""Called with the questions that are answered and their total."""


class Answerer(Protocol):
    """What is asked: an `Inquiry`, or whatever behaves like one."""

    def show(self, images: Sequence[ImageSource] = (), *, video: VideoSource | None = None, frames: int = 8) -> None:
        """Shows the pictures that the next questions are about, or none."""

    def ask(self, question: str, *, max_new_tokens: int = 64, think: bool = False) -> Reply:
        """Answers a question on its own."""


def show_pictures(answerer: Answerer, question: Question | OpenQuestion, text_only: bool = False) -> None:
    """Shows a question's pictures, or none when it is to be asked by its text alone.

    Raises:
        InputError: They are unusable; the text says in which question.
    """
    try:
        if text_only:
            answerer.show()
        else:
            answerer.show(question.images, video=question.video)
    except InputError as error:
        raise InputError(f"Question {question.identifier}: {error}") from error


def ask_all(
    answerer: Answerer,
    questions: Sequence[Question],
    *,
    think: bool = False,
    text_only: bool = False,
    max_new_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> list[Outcome]:
    """Asks every question in its four orders, greedily.

    Args:
        answerer: The model that is asked.
        questions: In the order in which they are asked.
        think: Ask for four-step answers.
        text_only: Leave the pictures out.
        max_new_tokens: Most tokens of each answer; None is 32, or 512 for four-step answers.
        on_progress: Told how many are answered.

    Returns:
        An outcome for each question.

    Raises:
        InputError: A question's pictures are unusable.
    """
    limit = max_new_tokens or (THINK_TOKENS if think else CHOICE_TOKENS)
    outcomes = []
    for done, question in enumerate(questions):
        if on_progress is not None:
            on_progress(done, len(questions))
        show_pictures(answerer, question, text_only)
        answers = [
            answerer.ask(question.prompt(rotation), max_new_tokens=limit, think=think).text
            for rotation in range(ROTATIONS)
        ]
        letters = tuple(chosen_letter(answer, question.shown(rotation)) for rotation, answer in enumerate(answers))
        outcomes.append(Outcome(question.identifier, question.task, letters))
    if on_progress is not None:
        on_progress(len(questions), len(questions))
    return outcomes
