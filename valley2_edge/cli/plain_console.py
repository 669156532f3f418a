"""A console of rich that prints text as it is, and text for those places of rich that would read markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from valley2_edge.cli.printable import printable


def plain(text: str, style: str = "") -> Text:
    """Text for places of rich that would read a string as markup."""
    return Text(printable(text), style=style)


class PlainConsole(Console):
    """A console that prints strings as they are: no markup, no emoji codes, nothing that steers the terminal.

    Cells of tables are strings, too; a cell that shall have a style is made by `plain`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Makes a string something to print."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Leaves the end of the process to the dispatcher."""
        raise
