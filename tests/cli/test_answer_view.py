"""How an answer looks while it is made."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from valley2_edge.cli.answer_view import ProgressLine, print_answer

FOUR_STEPS = (
    "<SUMMARY> I look. </SUMMARY>\n\n<CAPTION>A cat.</CAPTION>"
    "<REASONING>It has\n whiskers.</REASONING>\n<CONCLUSION>Cat</CONCLUSION>\n"
)
SHOWN = "Summary:\nI look.\n\nCaption:\nA cat.\n\nReasoning:\nIt has\n whiskers.\n\nConclusion:\nCat\n"


def test_plain_answer_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(iter([" a", "<SUMMARY>", " b "]), think=False)
    assert capsys.readouterr().out == " a<SUMMARY> b \n"


def test_empty_answer_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(iter([]), think=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_four_steps_stand_under_headings(capsys: pytest.CaptureFixture[str], size: int) -> None:
    pieces = [FOUR_STEPS[begin : begin + size] for begin in range(0, len(FOUR_STEPS), size)]
    print_answer(iter(pieces), think=True)
    assert capsys.readouterr().out == SHOWN


def test_text_outside_the_steps_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(iter(["Hm. <CONCLUSION>Cat</CONCLUSION> Done."]), think=True)
    assert capsys.readouterr().out == "Hm.\n\nConclusion:\nCat\n\nDone.\n"


def test_answer_that_breaks_off_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    def pieces():
        yield "half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        print_answer(pieces(), think=False)
    assert capsys.readouterr().out == "half\n"


def test_progress_is_silent_without_a_terminal() -> None:
    stream = io.StringIO()
    line = ProgressLine(Console(file=stream))
    line("siglip", 1, 5)
    line("decode", 1, 5)
    line.close()
    assert stream.getvalue() == ""


def test_progress_shows_tiles_prefill_and_speed_on_a_terminal() -> None:
    stream = io.StringIO()
    line = ProgressLine(Console(file=stream, force_terminal=True))
    for stage, done, total in (("siglip", 1, 5), ("prefill", 256, 1024), ("decode", 1, 9), ("decode", 2, 9)):
        assert f"{done}" in line._describe(stage, done, total)
    assert line._describe("siglip", 1, 5) == "tiles: 1 of 5"
    assert "tokens/s" in line._describe("decode", 3, 9)
    line("siglip", 1, 5)
    line.close()
    assert "tiles: 1 of 5" in stream.getvalue()
