"""The dispatcher: finds the command, and turns every failure into one line and an exit code."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from valley2_edge.cli.bench import bench
from valley2_edge.cli.chat import chat
from valley2_edge.cli.convert import convert
from valley2_edge.cli.demo import demo
from valley2_edge.cli.engines import app as engines_app
from valley2_edge.cli.eval import app as eval_app
from valley2_edge.cli.export import export
from valley2_edge.cli.inspect import inspect
from valley2_edge.cli.plan import plan
from valley2_edge.cli.verify import verify
from valley2_edge.errors import Cancelled, Valley2Error, Valley2Warning
from valley2_edge.version import __version__

EXIT_BUG = 1
EXIT_USER = 2
EXIT_CANCELLED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
for command in (export, chat, demo, plan, inspect, verify, convert, bench):
    app.command()(command)
app.add_typer(eval_app, name="eval")
app.add_typer(engines_app, name="engines")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"valley2-edge {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def entry(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand after a command, too.")] = False,
) -> None:
    """Valley2 on the edge: export a checkpoint to a small bundle and chat with it about pictures."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line without the program's name; None: the process's.

    Returns:
        The exit code: 0, 1 for a bug or a failed verification, 2 for a user's mistake, 130 when interrupted.
    """
    words, debug = _take_debug(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console that lacks a character shows another instead of ending the answer.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            _say_warnings()
            return _run(words)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)


def _run(words: list[str]) -> int:
    code = get_command(app).main(words, prog_name="valley2-edge", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _say_warnings() -> None:
    """Shows our own warnings, each time, as one line; others stay as they are."""
    show = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, Valley2Warning):
            _say(f"warning: {message}", 0)
        else:
            show(message, category, *rest, **named)

    warnings.simplefilter("always", Valley2Warning)
    warnings.showwarning = say


def _take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Removes --debug wherever it stands in front of a lone `--`."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return kept + words[end:], len(kept) < end


def _report(error: Exception) -> int:
    if isinstance(error, Cancelled | typer.Abort):
        return _say("cancelled", EXIT_CANCELLED)
    if isinstance(error, typer.TyperException):
        return _say(f"error: {error.format_message()}", EXIT_USER)
    if isinstance(error, Valley2Error):
        return _say(f"error: {error}", EXIT_USER)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return _say(f"error: {where}{error.strerror or error}", EXIT_USER)
    if isinstance(error, MemoryError):
        return _say("error: the memory of this machine does not suffice", EXIT_USER)
    hint = "this is a bug in valley2-edge; run the command again with --debug to see where"
    return _say(f"error: {type(error).__name__}: {error}; {hint}", EXIT_BUG)


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"valley2-edge: {' '.join(text.split())}\n")
    return code
