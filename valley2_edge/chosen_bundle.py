"""Which bundle a command means: the one that is named, else $VALLEY2_BUNDLE, else the one that was exported last."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from valley2_edge.builtin import builtin_bundle
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.errors import InputError
from valley2_edge.outside_files import is_directory, is_file
from valley2_edge.user_data import data_directory, is_unicode, read_own_json, write_own_json

BUNDLE_VARIABLE = "VALLEY2_BUNDLE"
_FILE_NAME = "last_bundle.json"


def remember_bundle(directory: Path) -> None:
    """Makes `directory` the bundle that `chat` uses when none is named.

    Raises:
        OSError: The user's data directory cannot be written.
    """
    name = str(directory.resolve())
    if not is_unicode(name):
        raise OSError(errno.EILSEQ, "its path is not Unicode")
    write_own_json(data_directory() / _FILE_NAME, {"bundle": name})


def last_bundle() -> Path | None:
    """The bundle that was exported last, or None when none is remembered; it need not exist any more."""
    content = read_own_json(data_directory() / _FILE_NAME)
    bundle = content.get("bundle")
    return Path(bundle) if isinstance(bundle, str) and bundle else None


def resolve_bundle(bundle: str | Path | None = None) -> Path:
    """Finds the bundle to use: the one named, else `$VALLEY2_BUNDLE`, else the one exported last.

    Args:
        bundle: What the user named, or None: a directory, or a bundle that comes with the package, as nano. A
            bundle in a directory of that name goes first.

    Raises:
        InputError: Nothing names a bundle, or what is remembered is gone.
    """
    named = bundle if bundle is not None else os.environ.get(BUNDLE_VARIABLE)
    if named:
        is_bundle = is_file(Path(named) / MANIFEST_NAME)
        return (None if is_bundle else builtin_bundle(named)) or Path(named)
    remembered = last_bundle()
    if remembered is None:
        raise InputError(
            "no bundle is known: name one, as in `valley2-edge chat --bundle nano` or `valley2-edge verify nano`, "
            f"in ${BUNDLE_VARIABLE}, or make one with `valley2-edge export CHECKPOINT`"
        )
    if not is_directory(remembered):
        raise InputError(f"the bundle exported last, {remembered}, is gone; name another, for example nano")
    return remembered
