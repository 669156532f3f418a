"""Help pages: -h and --help, groups of options, and examples that can be copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from valley2_edge.cli.commands import COMMANDS, load_command
from valley2_edge.cli.main import app


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    for name in COMMANDS:
        command = load_command(name)
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


EVERY = dict(all_commands())


@pytest.mark.parametrize("words", EVERY)
def test_short_and_long_flag_show_the_same_page(run, words: str) -> None:
    short, long = run(*words.split(), "-h"), run(*words.split(), "--help")
    assert short.code == long.code == 0
    assert short.stdout == long.stdout
    assert short.stdout.startswith(f"Usage: valley2-edge {words}")


def test_common_options_come_before_the_groups(run) -> None:
    page = run("chat", "--help").stdout
    places = [page.index(f"\n{title}:\n") for title in ("Arguments", "Options", "Model and machine", "Sampling")]
    assert places == sorted(places)
    assert page.index("--bundle") < page.index("--help") < page.index("--isa")


@pytest.mark.parametrize("words", EVERY)
def test_page_ends_with_examples_that_the_command_accepts(run, words: str) -> None:
    lines = run(*words.split(), "--help").stdout.split("\nExamples:\n")[1].splitlines()
    assert lines
    for line in lines:
        program, *rest = shlex.split(line)
        assert [program, *rest[: len(words.split())]] == ["valley2-edge", *words.split()]
        EVERY[words].make_context("example", rest[len(words.split()) :])


def test_examples_are_not_broken_into_lines(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert '  valley2-edge chat --bundle nano photo.jpg "What is this?"\n' in run("chat", "--help").stdout


@pytest.mark.parametrize("words", EVERY)
def test_every_option_has_a_sentence(words: str) -> None:
    context = typer.Context(EVERY[words])
    for parameter in EVERY[words].get_params(context):
        assert parameter.help, f"{words}: {parameter.name} has no help"
        sentence = parameter.help.strip()
        assert sentence[0].isupper() or sentence.split()[0] in ("fp16", "fp32", "int4"), f"{words}: {sentence}"
        assert sentence.endswith("."), f"{words}: {sentence}"
        assert not sentence.startswith("Of "), f"{words}: {sentence}"


def test_list_of_commands_is_that_of_the_dispatcher(run) -> None:
    assert app is not None
    page = run("--help").stdout
    places = [page.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
