"""What the commands share of the terminal: text is shown and never obeyed, and progress leaves the answer alone."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from valley2_edge.duration import format_duration

_FEW_SECONDS, _MANY_SECONDS = 10, 60

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it, and its total."""

# Control characters but for tab and line feed, marks that turn the direction of the text around them, and lone
# surrogates, which stand for bytes of a file's name that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FIRST_UNDECODED_BYTE = 0xDC80


def printable(text: str) -> str:
    r"""The text as a terminal may show it: what would steer the terminal is spelled out, as \x1b for the escape.

    Names of files, notes of saved sessions, manifests and answers come from strangers. Letters of every script stay,
    and so do the marks that join or separate them.
    """
    return _UNPRINTABLE.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    if _FIRST_UNDECODED_BYTE <= code <= _FIRST_UNDECODED_BYTE + 0x7F:
        code -= _FIRST_UNDECODED_BYTE - 0x80
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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


def output_console() -> Console:
    """For results: stdout."""
    return PlainConsole()


def error_console() -> Console:
    """For everything that is not the result: stderr."""
    return PlainConsole(stderr=True)


def print_line(console: Console, text: str) -> None:
    """Prints one line as it is: neither wrapped nor read as markup."""
    console.print(plain(text), soft_wrap=True)


@contextlib.contextmanager
def stage_progress(console: Console) -> Iterator[StageProgress]:
    """Shows one bar a stage with the time that is left on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield LineProgress(console)
        return
    columns = (
        *(TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TaskProgressColumn()),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(printable(stage), total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


class LineProgress:
    """Plain lines: one when a stage begins, then one every ten seconds, later every minute, with the time left.

    Args:
        console: Where they go.
        clock: Seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stages: dict[str, tuple[float, int]] = {}
        """When each stage began, and what was done of it then."""
        self._said = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` of a stage are done, unless a line was shown a moment ago."""
        now = self._clock()
        if stage not in self._stages:
            self._stages[stage], self._said = (now, done), now
            print_line(self._console, stage)
            return
        began, before = self._stages[stage]
        pause = _FEW_SECONDS if now - began < _MANY_SECONDS else _MANY_SECONDS
        if now - self._said < pause or not before < done < total:
            return
        self._said = now
        left = (now - began) / (done - before) * (total - done)
        print_line(self._console, f"{stage}: {done / total:.0%}, about {format_duration(left)} left")
