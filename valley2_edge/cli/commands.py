"""The commands by name; each is imported only when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

COMMANDS = {
    "export": "Export a Valley2 checkpoint to a bundle that needs no torch.",
    "chat": "Chat about pictures or a video; the answer goes to stdout, all else to stderr.",
    "demo": "Ask valley2-nano, which comes with this package, about a product card, two cards and a clip.",
    "plan": "Show what a question will take of memory; reads the manifest and headers only.",
    "inspect": "Show a bundle's components, precisions, sizes and source.",
    "verify": "Hash every file of a bundle and run its self-test, or compare it with reference outputs.",
    "convert": "Turn a bundle's decoder into a GPTQ checkpoint, or a GPTQ checkpoint into a bundle.",
    "bench": "Measure prefill, decode, the vision engines and the time to the first token.",
    "eval": "Measure how good a bundle's answers are.",
    "engines": "Build, list and remove TensorRT engines of vision graphs.",
}
"""Each with the line that the list of commands shows: the first of its own help."""


def load_command(name: str) -> Any:
    """Imports a command: the module of its name has an `app` with commands of its own, or a function of that name."""
    module = import_module(f"valley2_edge.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        app.command()(getattr(module, name))
    command = get_command(app)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and help until one of them is called."""

    def __init__(self, **settings: Any) -> None:
        settings["commands"] = {name: TyperCommand(name, help=text, callback=None) for name, text in COMMANDS.items()}
        super().__init__(**settings)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Finds the command that the first word names, and imports it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest
