"""Lines that are broken at words while the text is still coming."""

from __future__ import annotations

import textwrap

import pytest
from rich.cells import cell_len

from valley2_edge.cli.wrapping import WordWrapper, wrapped

PROSE = "The quick brown fox jumps over the lazy dog, and nobody in the whole valley minds it at all. " * 3


def test_prose_is_broken_as_the_standard_library_breaks_it() -> None:
    assert wrapped(PROSE.strip(), 40).splitlines() == textwrap.wrap(PROSE, 40)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pieces_make_no_difference(size: int) -> None:
    text = f"{PROSE}\n\n```\n{PROSE}\n```\n日本語の長い文章は、空白がなくても折り返すことができます。{PROSE}"
    text += f"\n    {PROSE}end\r\n"
    parts: list[str] = []
    wrapper = WordWrapper(parts.append, 30)
    for begin in range(0, len(text), size):
        wrapper.push(text[begin : begin + size])
    wrapper.finish()
    assert "".join(parts) == wrapped(text, 30)


def test_words_and_lines_stay_what_they_are() -> None:
    assert "".join(wrapped(PROSE, 33).split()) == "".join(PROSE.split())
    assert wrapped("one\n\n  two\tthree\n", 40) == "one\n\n  two\tthree\n"


@pytest.mark.parametrize(
    "text",
    [f"x {'y' * 50}", f"```\n{PROSE}end\n```", f"    {PROSE}", f"\t{PROSE}", "https://example.org/" + "a" * 70],
)
def test_code_and_long_words_are_left_alone(text: str) -> None:
    assert wrapped(text, 40).replace("x\n", "x ") == text


def test_wide_letters_count_twice_and_may_begin_a_line() -> None:
    lines = wrapped("价格是七十四元九角五分,因为这张卡片上写着这个价格。" * 3, 20).splitlines()
    assert len(lines) > 3
    assert all(cell_len(line) <= 22 for line in lines)  # a mark may hang into the margin
    assert all(not line.startswith((",", "。")) for line in lines)


def test_nothing_in_an_answer_steers_the_terminal() -> None:
    assert wrapped("a\x1b[2J b\x07", 40) == r"a\x1b[2J b\x07"
