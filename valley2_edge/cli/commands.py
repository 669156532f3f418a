"""The commands by name; each is imported only when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.main import get_command

from valley2_edge.cli.help_page import HelpfulCommand, HelpfulGroup

COMMANDS = {
    "demo": "Ask valley2-nano, which comes with this package, about a product card, two cards and a clip.",
    "chat": "Chat about pictures or a video; the answer goes to stdout, all else to stderr.",
    "export": "Export a Valley2 checkpoint to a bundle that needs no torch.",
    "inspect": "Show a bundle's components, precisions, sizes and source.",
    "plan": "Show how much memory a question will take, without loading the model.",
    "verify": "Hash every file of a bundle and run its self-test, or compare it with reference outputs.",
    "bench": "Measure prefill, decode, the vision engines and the time to the first token.",
    "eval": "Measure how good a bundle's answers are.",
    "convert": "Turn a bundle's decoder into a GPTQ checkpoint, or a GPTQ checkpoint into a bundle.",
    "engines": "Make vision graphs and TensorRT engines on this machine, list and remove them.",
}
"""The commands in the order of the list, each with the line there: the first of its own help page."""


def load_command(name: str) -> Any:
    """Imports a command: the module of its name has an `app` with commands of its own, or a function of that name.

    The module's EXAMPLES end the help page.
    """
    module = import_module(f"valley2_edge.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(cls=HelpfulCommand, epilog=module.EXAMPLES)(getattr(module, name))
    command = get_command(app)
    command.name = name
    return command


class LazyGroup(HelpfulGroup):
    """A group that knows its commands by name and help until one of them is called."""

    def __init__(self, **settings: Any) -> None:
        settings["commands"] = {name: HelpfulCommand(name, help=text, callback=None) for name, text in COMMANDS.items()}
        super().__init__(**settings)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Finds the command that the first word names, and imports it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest
