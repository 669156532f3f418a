"""Completion in the shell: scripts that are printed or installed, and the words that may come next."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer import _completion_classes
from typer.completion import get_completion_inspect_parameters, install_callback, shell_complete, show_callback

PROGRAM = "valley2-edge"
_VARIABLE = "_VALLEY2_EDGE_COMPLETE"
"""The environment variable by which the scripts ask for words."""

InstallCompletion = Annotated[
    bool,
    typer.Option(
        "--install-completion", callback=install_callback, help="Let the current shell complete commands and options."
    ),
]
ShowCompletion = Annotated[
    bool,
    typer.Option(
        "--show-completion", callback=show_callback, help="Print what --install-completion would install, and exit."
    ),
]


def is_asked_to_complete() -> bool:
    """Whether a shell's script runs this process to learn the words that may come next."""
    return bool(os.environ.get(_VARIABLE))


def complete(command: Any) -> int:
    """Prints the words that may come next.

    Args:
        command: The whole command line.

    Returns:
        The exit code.
    """
    # Removes rich's markup, which no description here has; the import of rich takes longer than all else.
    _completion_classes._sanitize_help_text = lambda text: text
    get_completion_inspect_parameters()  # teaches typer's shells to the code that it took from click
    return shell_complete(command, {}, PROGRAM, _VARIABLE, os.environ[_VARIABLE])
