"""Which files a manifest must and may name: whatever is opened is listed, and nothing lies outside of the bundle."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

MANIFEST_NAME = "valley2.json"
COMPONENT_FOLDERS = ("decoder", "selftest", "tokenizer", "vision")
"""Folders of which everything belongs to the bundle."""
VISION_COMPONENTS = ("siglip", "projector", "eagle")
MAX_FILES = 1000
_MAX_NAME = 512
_LEFT_BY_FILE_MANAGERS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that file managers leave in a folder that somebody looked at."""


def check_name(name: str) -> None:
    """Refuses a name that is no plain path below the bundle, the same on every system.

    Raises:
        ValueError: The text says what is wrong.
    """
    path = PurePosixPath(name)
    # A backslash or a colon would be a separator or a drive on Windows: refused everywhere, so that a bundle means the
    # same on every machine. A control character would be obeyed by a terminal that shows the name.
    outside = not path.parts or path.is_absolute() or ".." in path.parts or any(mark in name for mark in "\\:")
    if outside or str(path) != name or len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError("is not a path inside the bundle")


def check_tower_files(name: str, files: Sequence[str]) -> None:
    """Refuses other files of a vision component than its one native tower.

    Args:
        name: siglip, projector or eagle.
        files: What the manifest names.

    Raises:
        ValueError: The text says what is expected.
    """
    tower = f"vision/{name}.safetensors"
    if list(files) != [tower]:
        raise ValueError(f"{name}.files must be {tower} alone")


def check_graph_files(name: str, files: Sequence[str]) -> None:
    """Refuses other files of a vision component's ONNX graph than the graph and its weights.

    Args:
        name: siglip, projector or eagle.
        files: What the manifest names.

    Raises:
        ValueError: The text says what is expected.
    """
    graph = f"vision/{name}.onnx"
    if list(files) != [graph, f"{graph}.data"]:
        raise ValueError(f"graphs.{name} must be {graph} and {graph}.data")


def check_listed(files: Iterable[str], needed: Sequence[str], optional: Sequence[str], what: str) -> None:
    """Refuses a component whose files are not those that it has.

    Args:
        files: What the manifest names.
        needed: What must be among them.
        optional: What may be among them besides.
        what: The component, for the message.

    Raises:
        ValueError: One is missing or one too many.
    """
    named = list(files)
    for name in needed:
        if name not in named:
            raise ValueError(f"{what}.files lacks {name}")
    for name in named:
        if name not in needed and name not in optional:
            raise ValueError(f"{what}.files names {name!r}, which is no file of it")


def unlisted_files(directory: Path, listed: Iterable[str]) -> Iterator[str]:
    """Files in the folders of a bundle's components that its manifest does not name.

    Args:
        directory: The bundle.
        listed: What the manifest names.
    """
    known = set(listed)
    for folder in COMPONENT_FOLDERS:
        for place, _, names in os.walk(directory / folder):
            for name in sorted(names):
                path = (Path(place) / name).relative_to(directory).as_posix()
                if path not in known and name not in _LEFT_BY_FILE_MANAGERS:
                    yield path


def beside(graph: str, reference: str) -> str:
    """The bundle's name for a file that a graph refers to from its own folder.

    Raises:
        ValueError: The reference leads out of the bundle.
    """
    name = posixpath.join(posixpath.dirname(graph), reference)
    check_name(name)
    return name
