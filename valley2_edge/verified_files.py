"""Remembers which files were hashed before, so that a bundle of many gigabytes opens at once the second time."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from valley2_edge.outside_files import FileStamp, is_file
from valley2_edge.user_data import data_directory, is_unicode, read_own_json, write_own_json

_FILE_NAME = "verified_files.json"
_VERSION = 2


class VerifiedFiles:
    """Files whose sha256 was computed before, so that opening a bundle of many gigabytes again takes no time."""

    def __init__(self) -> None:
        """Reads the user's file; a missing or broken one is an empty memory."""
        self._path = data_directory() / _FILE_NAME
        self._entries: dict[str, list[Any]] = {}
        self._changed = False
        content = read_own_json(self._path)
        entries = content.get("files")
        if content.get("version") == _VERSION and isinstance(entries, dict):
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
        if is_unicode(str(path)):
            self._entries[str(path)] = [*dataclasses.astuple(stamp), sha256]
            self._changed = True

    def save(self) -> None:
        """Writes the memory back, without files that are gone."""
        if not self._changed:
            return
        present = {name: entry for name, entry in self._entries.items() if is_file(name)}
        # Only speed is lost when the directory is read-only or full: the next run hashes again.
        with contextlib.suppress(OSError):
            write_own_json(self._path, {"version": _VERSION, "files": present})
        self._changed = False
