"""A question in its four orders."""

from __future__ import annotations

from typing import Any

import pytest

from valley2_edge.errors import InputError
from valley2_edge.eval.questions.question import LETTERS, TASKS, Question

QUESTION = Question("ocr-0001", "ocr", "What does it cost?", ("$1", "$2", "$3", "$4"), answer=2)


def shown(question: Question, rotation: int) -> list[str]:
    """The options as the prompt shows them."""
    return [line.split(". ")[1] for line in question.prompt(rotation).splitlines()[1:5]]


def test_prompt_is_the_question_four_options_and_what_to_answer_with() -> None:
    shown = "What does it cost?\nA. $1\nB. $2\nC. $3\nD. $4\n"
    assert QUESTION.prompt(2) == shown + "Answer with one of the options."
    assert QUESTION.shown(2) == ("$1", "$2", "$3", "$4")


@pytest.mark.parametrize("answer", range(4))
@pytest.mark.parametrize("rotation", range(4))
def test_right_option_stands_where_the_rotation_says(answer: int, rotation: int) -> None:
    question = Question("x", "ocr", "?", QUESTION.options, answer)
    assert shown(question, rotation)[rotation] == question.options[answer]
    assert question.right_letter(rotation) == LETTERS[rotation]


@pytest.mark.parametrize("rotation", range(4))
def test_options_keep_their_cyclic_order(rotation: int) -> None:
    options = shown(QUESTION, rotation)
    begin = options.index("$1")
    assert options[begin:] + options[:begin] == ["$1", "$2", "$3", "$4"]


def test_rotation_of_the_answers_own_place_is_the_order_of_the_file() -> None:
    assert shown(QUESTION, QUESTION.answer) == list(QUESTION.options)


def test_every_option_stands_once_at_every_letter() -> None:
    orders = [shown(QUESTION, rotation) for rotation in range(4)]
    assert all(sorted(column) == sorted(QUESTION.options) for column in zip(*orders, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": ("a", "b", "c")}, "has 3 options"),
        ({"answer": 4}, "answer must be 0 to 3"),
        ({"answer": -1}, "answer must be 0 to 3"),
        ({"images": ("a.png",), "video": "a.mp4"}, "pictures and a video"),
    ],
)
def test_impossible_questions_are_refused(changes: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"options": QUESTION.options, "answer": 0, **changes}
    with pytest.raises(InputError, match=message):
        Question("q-1", "ocr", "?", **whole)


@pytest.mark.parametrize("rotation", [-1, 4])
def test_there_are_four_rotations(rotation: int) -> None:
    with pytest.raises(InputError, match="rotation must be 0 to 3"):
        QUESTION.prompt(rotation)


def test_tasks_are_the_nine_of_the_paper() -> None:
    assert len(set(TASKS)) == 9
