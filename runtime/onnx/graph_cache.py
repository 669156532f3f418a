"""ONNX graphs that this machine made from native towers, in the user's data directory: a folder for each tower.

A folder holds the graph, its weights and `graph.json`, which says what they were made from and has the size and sha256
of both. It appears under its name when it is whole. All may be deleted at any time. A folder with a file that another
user owns or may write, with a link, or with other content than `graph.json` says counts as absent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from valley2_edge.errors import InputError
from valley2_edge.outside_files import FileStamp, hash_file, wait_out_clock
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.user_data import (
    data_directory,
    open_own_file,
    own_directory,
    read_own_json,
    remove_abandoned,
    remove_directory,
    write_own_json,
)
from valley2_edge.verified_files import VerifiedFiles

WRITER_VERSION = 1
"""Version of the graphs that are made of a tower; a new one makes older graphs stale."""
_FOLDER = "graphs"
_NOTE = "graph.json"


@dataclass(frozen=True)
class GraphKey:
    """What a graph is made from."""

    component: ComponentName
    tower: str
    """SHA-256 of the tower's file."""
    writer: int = WRITER_VERSION
    """Version of the code that made it."""

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.component}-{self.tower[:16]}-{self.writer}"


@dataclass(frozen=True)
class KeptGraph:
    """A graph in the cache."""

    key: GraphKey
    path: Path
    """The graph; its weights lie beside it."""
    stamps: dict[Path, FileStamp]
    """What each of its files was when it was checked."""

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(stamp.size for stamp in self.stamps.values())

    @property
    def unchanged(self) -> bool:
        """Whether its files are still those that were checked."""
        try:
            return all(FileStamp.of(path) == stamp for path, stamp in self.stamps.items())
        except OSError:
            return False


class GraphCache:
    """The user's graphs."""

    def __init__(self) -> None:
        self.directory = data_directory() / _FOLDER

    def find(self, key: GraphKey) -> KeptGraph | None:
        """The graph of this key; None: it is not there whole.

        Files that this machine has not hashed before, or that have changed since, are hashed.
        """
        kept = self._read(self.directory / key.folder)
        if kept is None or kept.key != key:
            return None
        verified, note = VerifiedFiles(), read_own_json(self.directory / key.folder / _NOTE)
        try:
            for path, stamp in kept.stamps.items():
                sha256 = note["files"][path.name]["sha256"]
                if verified.sha256(path, stamp) == sha256:
                    continue
                wait_out_clock(stamp)
                found, hashed = hash_file(path, InputError)
                if found != sha256 or hashed != stamp:
                    return None
                verified.remember(path, hashed, found)
        except InputError:
            return None
        finally:
            verified.save()
        return kept

    @contextmanager
    def making(self, key: GraphKey) -> Iterator[Path]:
        """A folder to write a graph into; the graph is kept when the block ends, and nothing is when it fails.

        Graphs that another version of the code made from this tower are removed.

        Args:
            key: What the graph is made from. Its file has the component's name and ends with `.onnx`.

        Raises:
            OSError: The directory cannot be written, or is another user's.
        """
        directory = own_directory(_FOLDER)
        remove_abandoned(directory)
        folder = Path(tempfile.mkdtemp(prefix=f".{key.folder}.", dir=directory))
        try:
            yield folder
            hashed = {path.name: _hash_and_close_off(path) for path in sorted(folder.iterdir())}
            files = {name: {"size": stamp.size, "sha256": sha256} for name, (sha256, stamp) in hashed.items()}
            write_own_json(folder / _NOTE, {**asdict(key), "files": files})
            for old in directory.glob(f"{key.component}-{key.tower[:16]}-*"):
                shutil.rmtree(old)
            _publish(folder, directory / key.folder, lambda: self.find(key) is not None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        verified = VerifiedFiles()
        for name, (sha256, stamp) in hashed.items():
            verified.remember(directory / key.folder / name, stamp, sha256)
        verified.save()

    def entries(self) -> list[KeptGraph]:
        """All graphs whose note can be read; their content is not looked at."""
        found = [self._read(folder) for folder in sorted(self.directory.glob("[!.]*"))]
        return [kept for kept in found if kept is not None]

    def clear(self) -> tuple[int, int]:
        """Removes everything.

        Returns:
            How many files there were, and their bytes.

        Raises:
            OSError: Something cannot be removed.
        """
        return remove_directory(self.directory)

    def _read(self, folder: Path) -> KeptGraph | None:
        """What the note in a folder says, if files of these sizes are there."""
        note = read_own_json(folder / _NOTE)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            key = GraphKey(note["component"], note["tower"], note["writer"])
            if key.component not in get_args(ComponentName) or folder.name != key.folder:
                return None
            stamps = {folder / name: _own_stamp(folder / name) for name in note["files"] if Path(name).name == name}
            path = folder / graph_name(key.component)
            sizes = {folder / name: entry["size"] for name, entry in note["files"].items()}
            if path in stamps and sizes == {file: stamp.size for file, stamp in stamps.items()}:
                return KeptGraph(key, path, stamps)
        return None


def graph_name(component: ComponentName) -> str:
    """The name of a component's graph; that of its weights has `.data` added."""
    return f"{component}.onnx"


def _publish(folder: Path, target: Path, is_there: Callable[[], bool]) -> None:
    try:
        folder.replace(target)
    except OSError:
        if not is_there():  # or else another process has made the same meanwhile
            raise


def _own_stamp(path: Path) -> FileStamp:
    with open_own_file(path) as stream:
        return FileStamp.of(stream.fileno())


def _hash_and_close_off(path: Path) -> tuple[str, FileStamp]:
    """Brings a new file to the disk, makes it the user's alone, and hashes it."""
    path.chmod(0o600)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    wait_out_clock(FileStamp.of(path))
    return hash_file(path, InputError)
