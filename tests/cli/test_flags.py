"""Flags that are made from options classes: one for each field, and whole objects for the command."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from valley2_edge.cli.commands import load_command
from valley2_edge.cli.flags import Flag, Only, Without, with_flags
from valley2_edge.cli.option_groups import FLAGS
from valley2_edge.options import LoadOptions, SamplingOptions, SessionOptions

OTHER_NAMES = {
    "providers": "--provider",  # given once for each
    "vision_cache_bytes": "--vision-cache",  # takes an amount such as 256MiB, not a number of bytes
    "prefix_cache_bytes": "--prefix-cache",
}
"""Fields whose flags have other names."""


@pytest.mark.parametrize("options", [LoadOptions, SessionOptions, SamplingOptions])
def test_every_field_has_a_flag_of_its_name(options: type) -> None:
    chat = load_command("chat")
    flags = {name for parameter in chat.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for option in fields(options):
        assert OTHER_NAMES.get(option.name, f"--{option.name.replace('_', '-')}") in flags


@pytest.mark.parametrize("options", [LoadOptions, SessionOptions, SamplingOptions])
def test_flags_have_the_defaults_of_the_class(options: type, called: Any) -> None:
    assert called(options) == options()


def test_table_has_no_flag_of_a_field_that_is_gone() -> None:
    known = {option.name for options in (LoadOptions, SessionOptions, SamplingOptions) for option in fields(options)}
    assert set(FLAGS) == known


@pytest.fixture
def called():
    """Calls a command that takes one options object, with the table of the command line, and returns the object."""

    def call(annotation: Any, *words: str, table: dict[str, Flag] = FLAGS) -> Any:
        seen = []

        def command(*, options: Any) -> None:
            seen.append(options)

        command.__annotations__["options"] = annotation
        app = typer.Typer(add_completion=False)
        app.command()(with_flags(table)(command))
        made = get_command(app)
        with made.make_context("command", list(words)) as context:
            made.invoke(context)
        return seen[0]

    return call


@dataclass(frozen=True)
class Colours:
    """Options for these tests."""

    red: int = field(default=1, metadata={"meaning": "How red."})
    green: bool = field(default=True, metadata={"meaning": "Green, too."})
    blue: Annotated[str, typer.Option("--azure", help="How blue.")] = "sky"


def test_fields_are_filled_from_flags(called: Any) -> None:
    assert called(Colours, "--red", "7", "--no-green", "--azure", "sea", table={}) == Colours(7, False, "sea")


def test_flag_may_read_what_is_typed(called: Any) -> None:
    table = {"red": Flag(names=("--crimson",), kind=str, default="2", read=lambda text: 10 * int(text))}
    assert called(Colours, table=table).red == 20
    assert called(Colours, "--crimson", "3", table=table).red == 30


@pytest.mark.parametrize("choice", [Only(("red",)), Without(("green", "blue"))])
def test_fields_without_a_use_get_no_flag(called: Any, choice: Any) -> None:
    annotation = Annotated[Colours, choice]
    assert called(annotation, "--red", "3", table={}) == Colours(red=3)
    with pytest.raises(typer.TyperException):
        called(annotation, "--azure", "sea", table={})
