"""The dispatcher: finds the command, and turns every failure into one line and an exit code."""

from __future__ import annotations

import _thread
import contextlib
import io
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from valley2_edge.cli.commands import LazyGroup
from valley2_edge.cli.completion import (
    PROGRAM,
    InstallCompletion,
    ShowCompletion,
    complete,
    is_asked_to_complete,
)
from valley2_edge.cli.failure import sentence_of
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.printable import printable
from valley2_edge.cli.streams import abandon_output, plug_closed_streams
from valley2_edge.errors import Cancelled, Valley2Warning
from valley2_edge.version import __version__

EXIT_BUG = 1
EXIT_USER = 2
EXIT_CANCELLED = 130
EXIT_NO_READER = 141
"""The exit code of a process that SIGPIPE ends: whoever read stdout went away."""

app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "valley2-edge demo                                        see it work, without any file",
        'valley2-edge chat --bundle nano photo.jpg "What is it?"  ask about a picture',
        "valley2-edge chat --help                                 options and examples of a command",
    ),
)


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
    install_completion: InstallCompletion = False,
    show_completion: ShowCompletion = False,
) -> None:
    """Valley2 on the edge: export a checkpoint to a small bundle and chat with it about pictures."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run_process() -> int:
    """Runs the command line of this process, which ends afterwards."""
    plug_closed_streams()
    sys.unraisablehook = _hear_interrupt
    code = main()
    # What is left is the interpreter's own end: an impatient Ctrl-C ends it without a word.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line without the program's name; None: the process's.

    Returns:
        The exit code: 0, 1 for a bug or a failed verification, 2 for a user's mistake, 130 when interrupted, 141 when
        nobody reads stdout any more.
    """
    words, debug = _take_debug(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:
        return _say("error: stdout is closed, so the result has nowhere to go", EXIT_USER)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console that lacks a character shows another instead of ending the answer.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            _say_warnings(debug)
            code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        abandon_output()
        return _say("cancelled", EXIT_CANCELLED)
    except SystemExit as end:
        # How the console that prints the help takes it when nobody reads.
        if isinstance(end.__context__, BrokenPipeError):
            return EXIT_NO_READER
        raise
    except Exception as error:
        if debug:
            sys.stderr.write(printable(traceback.format_exc()))
        return _report(error)


def _run(words: list[str]) -> int:
    # Not through the command's own `main`, which answers a reader that went away with exit code 1.
    command = get_command(app)
    if is_asked_to_complete():
        return complete(command)
    try:
        with command.make_context(PROGRAM, words) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        code = end.exit_code
    return code if isinstance(code, int) else 0


def _say_warnings(debug: bool) -> None:
    """Shows every warning as one line, our own each time; with --debug others come with their place."""
    show = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if debug and not issubclass(category, Valley2Warning):
            show(message, category, *rest, **named)
        else:
            _say(f"warning: {message}", 0)

    warnings.simplefilter("always", Valley2Warning)
    warnings.showwarning = say


def _hear_interrupt(failed: sys.UnraisableHookArgs) -> None:
    """Raises a Ctrl-C again that arrived where Python can only print and forget it, as in `__del__`."""
    if failed.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(_interrupt_soon, ())
    else:
        sys.__unraisablehook__(failed)


def _interrupt_soon() -> None:
    """Interrupts the main thread a moment later: in the midst of the hook it would be printed and forgotten again."""
    time.sleep(0.01)
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        # Unlike the other, it also ends a call of the system in which the main thread waits.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Removes --debug wherever it stands in front of a lone `--`."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return kept + words[end:], len(kept) < end


def _report(error: Exception) -> int:
    abandon_output()
    if isinstance(error, BrokenPipeError):
        return EXIT_NO_READER
    if isinstance(error, Cancelled | typer.Abort) or _was_interrupted(error):
        return _say("cancelled", EXIT_CANCELLED)
    sentence = sentence_of(error)
    if sentence is not None:
        return _say(f"error: {sentence}", EXIT_USER)
    hint = "this is a bug in valley2-edge; run the command again with --debug to see where"
    return _say(f"error: {type(error).__name__}: {error}; {hint}", EXIT_BUG)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether a Ctrl-C is behind an error: a module that is interrupted while it is imported may raise another."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"valley2-edge: {' '.join(printable(text).split())}\n")
        sys.stderr.flush()
    return code
