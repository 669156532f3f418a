"""How commands are told which bundle they are about, and what a shell completes there."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from valley2_edge.builtin import BUILTIN_BUNDLES
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.chosen_bundle import last_bundle

_MOST_ENTRIES = 1000
"""A completion looks at no more entries of a folder than this, because somebody waits for it."""


def complete_bundle(incomplete: str) -> list[str]:
    """The bundles whose names begin with what was typed; none leaves the completion to the shell's own of files.

    Args:
        incomplete: The beginning of a name or of a path.
    """
    names = list(BUILTIN_BUNDLES)
    remembered = last_bundle()
    if remembered is not None:
        names.append(str(remembered))
    folder = Path(incomplete).parent if not incomplete.endswith(os.sep) else Path(incomplete)
    try:
        with os.scandir(folder) as entries:
            paths = [folder / entry.name for entry in islice(entries, _MOST_ENTRIES)]
    except OSError:
        paths = []
    names += [str(path) for path in paths if str(path).startswith(incomplete) and (path / MANIFEST_NAME).is_file()]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


BundleArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="BUNDLE",
        help="The bundle's directory, or nano for the one in this package. By default the one in $VALLEY2_BUNDLE, "
        "else the one that was exported last.",
        autocompletion=complete_bundle,
        show_default=False,
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="DIR",
        help="The bundle's directory, or nano for the one in this package. By default the one in $VALLEY2_BUNDLE, "
        "else the one that was exported last.",
        autocompletion=complete_bundle,
    ),
]
