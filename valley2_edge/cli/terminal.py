"""What the commands share of the terminal: tables and progress go where they do not disturb the answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it, and its total."""


def output_console() -> Console:
    """For results: stdout."""
    return Console(highlight=False)


def error_console() -> Console:
    """For everything that is not the result: stderr."""
    return Console(stderr=True, highlight=False)


def print_line(console: Console, text: str) -> None:
    """Prints one line as it is: neither wrapped nor read as markup."""
    console.print(text, soft_wrap=True, markup=False)


@contextlib.contextmanager
def stage_progress(console: Console) -> Iterator[StageProgress]:
    """Shows one bar a stage on a terminal, one line a stage elsewhere."""
    if not console.is_terminal:
        yield _line_progress(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


def _line_progress(console: Console) -> StageProgress:
    seen: set[str] = set()

    def show(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            print_line(console, stage)

    return show
