"""What valley2_edge remembers between runs, in the user's data directory.

Two small JSON files: `last_bundle.json` names the bundle that was exported last, `verified_files.json` holds the
files whose sha256 was computed before. Both may be deleted at any time; a broken one counts as absent. Beside them
`engines/` holds what TensorRT built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from valley2_edge.builtin import builtin_bundle
from valley2_edge.errors import InputError
from valley2_edge.outside_files import FileStamp, is_directory, is_file, read_json

BUNDLE_VARIABLE = "VALLEY2_BUNDLE"
DATA_DIRECTORY_VARIABLE = "VALLEY2_DATA_DIR"
_LAST_BUNDLE = "last_bundle.json"
_VERIFIED_FILES = "verified_files.json"
_VERIFIED_FILES_VERSION = 2
_MAX_BYTES = 16 << 20


def data_directory() -> Path:
    """The directory that is ours: `$VALLEY2_DATA_DIR`, or else the platform's place for an application's data."""
    override = os.environ.get(DATA_DIRECTORY_VARIABLE)
    return Path(override).expanduser() if override else platformdirs.user_data_path("valley2_edge", appauthor=False)


def remember_bundle(directory: Path) -> None:
    """Makes `directory` the bundle that `chat` uses when none is named.

    Raises:
        OSError: The user's data directory cannot be written.
    """
    name = str(directory.resolve())
    if not _is_unicode(name):
        raise OSError(errno.EILSEQ, "its path is not Unicode")
    _write_json(data_directory() / _LAST_BUNDLE, {"bundle": name})


def last_bundle() -> Path | None:
    """The bundle that was exported last, or None when none is remembered; it need not exist any more."""
    content = _read_json(data_directory() / _LAST_BUNDLE)
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
        from valley2_edge.bundle import MANIFEST_NAME  # which needs this module

        is_bundle = is_file(Path(named) / MANIFEST_NAME)
        return (None if is_bundle else builtin_bundle(named)) or Path(named)
    remembered = last_bundle()
    if remembered is None:
        raise InputError(
            f"no bundle is known; name one with --bundle DIR or ${BUNDLE_VARIABLE}, "
            "or make one with `valley2-edge export CHECKPOINT`"
        )
    if not is_directory(remembered):
        raise InputError(f"the bundle exported last, {remembered}, is gone; name another with --bundle DIR")
    return remembered


class VerifiedFiles:
    """Files whose sha256 was computed before, so that opening a bundle of many gigabytes again takes no time."""

    def __init__(self) -> None:
        """Reads the user's file; a missing or broken one is an empty memory."""
        self._path = data_directory() / _VERIFIED_FILES
        self._entries: dict[str, list[Any]] = {}
        self._changed = False
        content = _read_json(self._path)
        entries = content.get("files")
        if content.get("version") == _VERIFIED_FILES_VERSION and isinstance(entries, dict):
            self._entries = {name: entry for name, entry in entries.items() if isinstance(entry, list)}

    def sha256(self, path: Path, stamp: FileStamp) -> str | None:
        """The sha256 computed when the file had this stamp, or None."""
        entry = self._entries.get(str(path))
        known = [*dataclasses.astuple(stamp)]
        if entry is None or entry[:-1] != known or not isinstance(entry[-1], str):
            return None
        return entry[-1]

    def remember(self, path: Path, stamp: FileStamp, sha256: str) -> None:
        """Notes what was computed from an open file that had `stamp` before and after it was read."""
        if _is_unicode(str(path)):
            self._entries[str(path)] = [*dataclasses.astuple(stamp), sha256]
            self._changed = True

    def save(self) -> None:
        """Writes the memory back, without files that are gone."""
        if not self._changed:
            return
        present = {name: entry for name, entry in self._entries.items() if is_file(name)}
        # Only speed is lost when the directory is read-only or full: the next run hashes again.
        with contextlib.suppress(OSError):
            _write_json(self._path, {"version": _VERIFIED_FILES_VERSION, "files": present})
        self._changed = False


def _is_unicode(name: str) -> bool:
    """Whether a path can stand in JSON: on Linux it may hold any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, InputError, limit=_MAX_BYTES)
    except InputError:
        return {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a file as a whole: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
