"""The four-step answer, whole and streamed."""

from __future__ import annotations

import pytest

from valley2_edge.answer import AnswerParser, AnswerPiece, parse_answer, partial_suffix

FULL = (
    "<SUMMARY> I will look. </SUMMARY>\n\n<CAPTION>A cat.</CAPTION>\n\n"
    "<REASONING>It has 2 < 3 ears.</REASONING>\n\n<CONCLUSION>\nA cat\n</CONCLUSION>"
)


def test_all_steps_are_found() -> None:
    answer = parse_answer(FULL)
    assert answer.structured
    assert (answer.summary, answer.caption) == ("I will look.", "A cat.")
    assert (answer.reasoning, answer.conclusion) == ("It has 2 < 3 ears.", "A cat")
    assert answer.rest == ""
    assert answer.final == "A cat"


def test_plain_answer_has_no_steps() -> None:
    answer = parse_answer("Just <b>text</b>.")
    assert not answer.structured
    assert answer.final == answer.rest == "Just <b>text</b>."


def test_answer_cut_inside_a_step_keeps_what_there_is() -> None:
    answer = parse_answer("<SUMMARY>a</SUMMARY><REASONING>half")
    assert (answer.summary, answer.reasoning, answer.conclusion) == ("a", "half", None)


def test_opening_tag_ends_a_step_that_was_not_closed() -> None:
    answer = parse_answer("<SUMMARY>a<CONCLUSION>b</CONCLUSION>c")
    assert (answer.summary, answer.conclusion, answer.rest) == ("a", "b", "c")


def test_foreign_closing_tag_is_dropped() -> None:
    assert parse_answer("<SUMMARY>a</CAPTION>b</SUMMARY>").summary == "ab"


def test_empty_step_exists() -> None:
    assert parse_answer("<CONCLUSION></CONCLUSION>").conclusion == ""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("text", [FULL, "a < b <SUM", "<SUMMARY", "x<SUMMARY>y</SUMM"])
def test_pieces_of_any_size_give_the_same_answer(text: str, size: int) -> None:
    parser = AnswerParser()
    pieces: list[AnswerPiece] = []
    for begin in range(0, len(text), size):
        pieces += parser.push(text[begin : begin + size])
    pieces += parser.finish()

    def joined(step: str | None) -> str:
        return "".join(piece.text for piece in pieces if piece.step == step).strip()

    whole = parse_answer(text)
    assert joined(None) == whole.rest
    assert joined("summary") == (whole.summary or "")
    assert joined("conclusion") == (whole.conclusion or "")


def test_text_is_released_as_soon_as_it_cannot_be_a_tag() -> None:
    parser = AnswerParser()
    assert parser.push("abc<") == [AnswerPiece(None, "abc")]
    assert parser.push("d") == [AnswerPiece(None, "<d")]


def test_partial_suffix_takes_the_longest() -> None:
    assert partial_suffix("a<|im", ["<|im_end|>"]) == 4
    assert partial_suffix("<|im_end|>", ["<|im_end|>"]) == 0
    assert partial_suffix("abc", ["<|im_end|>"]) == 0
    assert partial_suffix("x<CON", ["<SUMMARY>", "<CONCLUSION>"]) == 4
