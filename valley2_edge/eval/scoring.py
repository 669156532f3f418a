"""Cyclic scoring: a question counts only when it is answered right with the right option at A, B, C and D."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from valley2_edge.answer import parse_answer
from valley2_edge.errors import InputError
from valley2_edge.eval.intervals import Estimate, mean_of, wilson
from valley2_edge.eval.questions.question import LETTERS, TASKS

ROTATIONS = len(LETTERS)
CHANCE = 1 / len(LETTERS) ** ROTATIONS
"""Cyclic accuracy of random letters."""
CONTENT_GUESS = 1 / len(LETTERS)
"""Cyclic accuracy of who guesses an option by its content, and the same one in every order."""

_IN_BRACKETS = re.compile(rf"\(([{LETTERS}])\)")
_ALONE = re.compile(rf"\b([{LETTERS}])\b")


_AROUND = " \t\r\n.*'\""


def chosen_letter(answer: str, options: Sequence[str]) -> str | None:
    """The option that an answer names.

    The whole answer is an option's text ("red"), or else it has a letter in brackets ("red (B)"), or else its first
    A to D that stands alone counts ("B. red"). Of a four-step answer the conclusion is looked at alone.

    Args:
        answer: The model's answer.
        options: The options in the order in which the model was shown them, A to D.

    Returns:
        The letter, or None when the answer names no option, which counts as wrong.
    """
    final = parse_answer(answer).final
    plain = final.strip(_AROUND).casefold()
    for letter, option in zip(LETTERS, options, strict=True):
        if option.strip(_AROUND).casefold() == plain:
            return letter
    found = _IN_BRACKETS.search(final) or _ALONE.search(final)
    return found.group(1) if found else None


@dataclass(frozen=True)
class Outcome:
    """How one question was answered in its four orders."""

    identifier: str
    task: str
    letters: tuple[str | None, ...]
    """Letters that were chosen with the right option at A, B, C and D; None where the answer names no option."""

    def __post_init__(self) -> None:
        if len(self.letters) != ROTATIONS:
            raise InputError(f"Question {self.identifier} has {len(self.letters)} answers; it needs {ROTATIONS}.")

    @property
    def right_answers(self) -> int:
        """Number of orders, of four, in which the answer is right."""
        return sum(letter == right for letter, right in zip(self.letters, LETTERS, strict=True))

    @property
    def right(self) -> bool:
        """Whether the answer is right in all four orders."""
        return self.right_answers == ROTATIONS


@dataclass(frozen=True)
class TaskScore:
    """The score of one task."""

    accuracy: Estimate
    """Share of questions right in all four orders, with Wilson's interval."""
    plain_accuracy: float
    """Share of answers that are right, of four a question."""
    count: int
    """Number of questions."""
    unparsed: int
    """Number of answers that name no option."""


@dataclass(frozen=True)
class Score:
    """The scores of all tasks."""

    tasks: dict[str, TaskScore]
    """In the benchmark's order, then the user's own as they came."""
    average: Estimate
    """Mean of the tasks' accuracies, each task alike; the interval is propagated from theirs."""
    plain_average: float

    @property
    def count(self) -> int:
        """Number of questions."""
        return sum(task.count for task in self.tasks.values())

    @property
    def unparsed(self) -> int:
        """Number of answers that name no option."""
        return sum(task.unparsed for task in self.tasks.values())


def score(outcomes: Iterable[Outcome]) -> Score:
    """Scores the answers to a set of questions.

    Raises:
        InputError: There is no question.
    """
    by_task: dict[str, list[Outcome]] = {task: [] for task in TASKS}
    for outcome in outcomes:
        by_task.setdefault(outcome.task, []).append(outcome)
    tasks = {task: _score_task(answered) for task, answered in by_task.items() if answered}
    if not tasks:
        raise InputError("There is no question to score.")
    average = mean_of([task.accuracy for task in tasks.values()])
    return Score(tasks, average, sum(task.plain_accuracy for task in tasks.values()) / len(tasks))


def _score_task(outcomes: Sequence[Outcome]) -> TaskScore:
    count = len(outcomes)
    return TaskScore(
        accuracy=wilson(sum(outcome.right for outcome in outcomes), count),
        plain_accuracy=sum(outcome.right_answers for outcome in outcomes) / (ROTATIONS * count),
        count=count,
        unparsed=sum(outcome.letters.count(None) for outcome in outcomes),
    )
