"""What a terminal is shown: text, whatever a stranger wrote into it."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from valley2_edge.cli.plain_console import PlainConsole, plain
from valley2_edge.cli.printable import printable
from valley2_edge.cli.terminal import print_line, stage_progress


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[2J\x9b31m", r"\x1b[2J\x9b31m"),
        ("back\x08space\x7f\rreturn\x00", r"back\x08space\x7f\x0dreturn\x00"),
        ("a\tb\nc\r\nd", "a\tb\nc\nd"),
        ("exe\u202egpj.\u2066x\u2069", r"exe\u202egpj.\u2066x\u2069"),
        ("name\udcff\ud800", r"name\xff\ud800"),
        ("שלום مرحبا \u200f中文 é 👩\u200d🚀", "שלום مرحبا \u200f中文 é 👩\u200d🚀"),
    ],
)
def test_control_characters_are_spelled_out_and_letters_stay(text: str, shown: str) -> None:
    assert printable(text) == shown


def console_of(stream: io.StringIO) -> PlainConsole:
    return PlainConsole(file=stream, width=60, force_terminal=True, color_system=None)


@pytest.mark.parametrize("text", ["a:b:c", "[red]x[/red]", "[/]", ":smile:", "[link=https://example.org]x[/link]"])
def test_nothing_printed_is_markup_or_an_emoji_code(text: str) -> None:
    stream = io.StringIO()
    console = console_of(stream)
    print_line(console, text)
    console.print(text)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    assert stream.getvalue().count(text) == 5


def test_cells_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    table = Table("name")
    table.add_row("\x1b]52;c;x\x07")
    table.add_row(plain("\x1b[2J", style="bold"))
    console_of(stream).print(table)
    assert "\x1b" not in stream.getvalue() and "\x07" not in stream.getvalue()


def test_stages_of_a_progress_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    with stage_progress(console_of(stream)) as progress:
        progress("[red]one\x07", 1, 2)
    assert r"[red]one\x07" in stream.getvalue() and "\x07" not in stream.getvalue()


def test_reader_that_went_away_is_left_to_the_dispatcher() -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        console_of(Closed()).print("x")
