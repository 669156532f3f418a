"""What the commands share of the terminal: two consoles, lines, and progress that leaves the answer alone.

rich is imported where something is drawn, so that a help page or a refusal does not wait for it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from valley2_edge.cli.printable import printable
from valley2_edge.duration import format_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_FEW_SECONDS, _MANY_SECONDS = 10, 60

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it, and its total."""


def output_console() -> Console:
    """The console for results: stdout."""
    from valley2_edge.cli.plain_console import PlainConsole

    return PlainConsole()


def error_console() -> Console:
    """The console for everything that is not the result: stderr."""
    from valley2_edge.cli.plain_console import PlainConsole

    return PlainConsole(stderr=True)


def print_line(console: Console, text: str) -> None:
    """Prints one line as it is: neither wrapped nor read as markup."""
    from valley2_edge.cli.plain_console import plain

    console.print(plain(text), soft_wrap=True)


@contextlib.contextmanager
def stage_progress(console: Console) -> Iterator[StageProgress]:
    """Shows one bar a stage with the time that is left on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield LineProgress(console)
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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
        console: The console that the lines go to.
        clock: What time it is, in seconds.
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
