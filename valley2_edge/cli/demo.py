"""`valley2-edge demo`: the model that comes with the package answers three questions."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import complete_bundle
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.terminal import error_console, output_console, print_line

if TYPE_CHECKING:
    from valley2_edge.eval.questions.showcase import Exhibit
    from valley2_edge.runtime.model import Valley2

EXAMPLES = examples("valley2-edge demo", "valley2-edge demo --output demo-pictures")
EXIT_WRONG = 1
_ANSWER_TOKENS = 64


def demo(
    bundle: Annotated[
        str, typer.Option(metavar="DIR", help="The bundle that answers.", autocompletion=complete_bundle)
    ] = "nano",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the pictures in this folder. By default they are removed at the end."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Number of threads. 0 uses as many as the process may run on.")
    ] = 0,
) -> None:
    """Ask valley2-nano, which comes with this package, about a product card, two cards and a clip.

    Exits with 1 when an answer is wrong.
    """
    from valley2_edge.cli.answer_view import ProgressLine
    from valley2_edge.eval.questions.showcase import write_showcase
    from valley2_edge.runtime.model import Valley2

    with contextlib.ExitStack() as stack:
        directory = output or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="valley2-demo-")))
        exhibits = write_showcase(directory)
        line = stack.enter_context(contextlib.closing(ProgressLine(error_console())))
        model = stack.enter_context(
            Valley2.load(resolve_bundle(bundle), threads=threads, keep_vision=True, on_progress=line)
        )
        line.close()
        right = [_ask(model, exhibit) for exhibit in exhibits]
    print_line(output_console(), f"Next: {shlex.join(_next(bundle, output, exhibits[0]))}")
    if not all(right):
        raise typer.Exit(EXIT_WRONG)


def _next(bundle: str, output: Path | None, exhibit: Exhibit) -> list[str]:
    """A command to copy: the first question again, where its pictures are kept, or how to keep them."""
    if output is None:
        return ["valley2-edge", "demo", "--output", "demo-pictures"]
    return ["valley2-edge", "chat", "--bundle", bundle, *map(str, exhibit.files), exhibit.question]


def _ask(model: Valley2, exhibit: Exhibit) -> bool:
    """Shows one question with its answer; returns whether it is right."""
    console = output_console()
    print_line(console, f"{' '.join(str(file) for file in exhibit.files)}: {exhibit.question}")
    answer = "".join(model.chat(exhibit.question, max_new_tokens=_ANSWER_TOKENS, **exhibit.sources)).strip()
    right = answer == exhibit.answer
    print_line(console, f"  {answer}  ({'right' if right else f'wrong: {exhibit.answer}'})")
    return right
