"""Which letter an answer names, and what counts."""

from __future__ import annotations

import pytest

from valley2_edge.errors import InputError
from valley2_edge.eval.scoring import CHANCE, Outcome, chosen_letter, score

OPTIONS = ("red", "blue", "$24.95", "a lid")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" C.", "C"),
        ("(D)", "D"),
        ("**A**", "A"),
        ("B. red", "B"),
        ("The answer is C, not D.", "C"),
        ("Answer: B", "B"),
        ("$24.95 (B)", "B"),
        ("$24.95", "C"),
        ("A red mug (C)", "C"),
        ("red", "A"),
        ("Blue.", "B"),
        (" a lid ", "D"),
        ("A lid", "D"),
        ("it is red", None),
        ("b", None),
        ("E", None),
        ("", None),
        ("ABCD", None),
        ("Bag", None),
        ("B2", None),
        ("<SUMMARY>A or B</SUMMARY><CONCLUSION>C</CONCLUSION>", "C"),
        ("<SUMMARY>A or B</SUMMARY><CONCLUSION>blue</CONCLUSION>", "B"),
        ("<SUMMARY>A or B</SUMMARY><REASONING>It is A", None),
    ],
)
def test_option_else_letter_in_brackets_else_first_capital_that_stands_alone(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("letters", "right_answers", "right"),
    [("ABCD", 4, True), ("AAAA", 1, False), ("ABCC", 3, False), ("DABC", 0, False)],
)
def test_question_counts_only_when_right_in_all_four_orders(letters: str, right_answers: int, right: bool) -> None:
    outcome = Outcome("x", "ocr", tuple(letters))
    assert (outcome.right_answers, outcome.right) == (right_answers, right)


def test_answer_without_a_letter_is_wrong_and_counted() -> None:
    found = score([Outcome("1", "ocr", ("A", None, "C", None)), Outcome("2", "ocr", tuple("ABCD"))])
    assert found.tasks["ocr"].accuracy.value == 0.5
    assert found.tasks["ocr"].plain_accuracy == 6 / 8
    assert (found.tasks["ocr"].unparsed, found.unparsed, found.count) == (2, 2, 2)


def test_average_gives_every_task_the_same_weight() -> None:
    outcomes = [Outcome(str(index), "ocr", tuple("ABCD")) for index in range(9)]
    outcomes.append(Outcome("x", "product_understanding", tuple("AAAA")))
    found = score(outcomes)
    assert found.average.value == 0.5
    assert found.plain_average == (1 + 0.25) / 2
    assert found.average.low < 0.5 < found.average.high


def test_tasks_are_in_the_benchmarks_order_and_the_users_own_after_them() -> None:
    tasks = ("my own", "ocr", "image_understanding")
    assert list(score([Outcome(task, task, tuple("ABCD")) for task in tasks]).tasks) == [
        "image_understanding",
        "ocr",
        "my own",
    ]


def test_always_the_same_letter_scores_nothing() -> None:
    assert score([Outcome(str(n), "ocr", tuple("CCCC")) for n in range(20)]).average.value == 0
    assert pytest.approx(1 / 256) == CHANCE


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match="no question"):
        score([])


def test_outcome_has_four_answers() -> None:
    with pytest.raises(InputError, match="needs 4"):
        Outcome("x", "ocr", ("A",))
