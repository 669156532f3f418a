"""Engines that were built, in the user's data directory: one file each, named after all that it depends on.

A file is a line that says what it is, a line of JSON (`EngineKey` and the size and sha256 of the rest), and the
engine. What TensorRT-RTX compiles for one GPU at run time lies beside it in a file of the same form that ends with
`.kernels`. All may be deleted at any time.

An engine is a program: a file that another user owns or may write, a link, and one whose content is not what its head
says count as absent, and are built anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from valley2_edge.bundle import Bundle
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.devices.cuda_driver import Gpu
from valley2_edge.runtime.onnx.graph_files import graph_key, own_graph
from valley2_edge.user_data import (
    data_directory,
    open_own_file,
    own_directory,
    remove_abandoned,
    remove_directory,
    write_own_file,
)

SUFFIX = ".engine"
KERNELS_SUFFIX = ".kernels"
_MAGIC = b"valley2 engine 1\n"
_MOST_HEAD_BYTES = 4096
RECIPE = 2
"""Version of the changes that a graph undergoes before it is built; a new one makes older engines stale."""


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on; it is built anew when any of it changes."""

    component: ComponentName
    graph: str
    """`graph_digest` of the component."""
    precision: str
    most_rows: int
    """Tiles, or Eagle patches, of the largest input."""
    capability: str
    """Compute capability of the GPU, such as "8.6"."""
    flavour: str
    version: str
    """Version of TensorRT."""
    gpu: str = ""
    """Its name; empty where TensorRT-RTX built for every GPU of the compute capability."""
    driver: str = ""
    """Its version; empty likewise."""

    @property
    def file_name(self) -> str:
        """The name under which it is kept."""
        return f"{self.component}-{self.capability}-{_digest(asdict(self))}{SUFFIX}"

    def without_gpu(self) -> EngineKey:
        """The key of an engine that was built where the GPU is not."""
        return EngineKey(**{**asdict(self), "gpu": "", "driver": ""})

    def supersedes(self, other: EngineKey) -> bool:
        """Whether the other served the same purpose under another version of the driver or TensorRT."""
        changing = {"version": "", "driver": ""}
        return self != other and {**asdict(self), **changing} == {**asdict(other), **changing}


@dataclass(frozen=True)
class Entry:
    """An engine in the cache."""

    key: EngineKey
    path: Path
    size: int
    """Bytes of the file."""


def graph_digest(bundle: Bundle, component: ComponentName) -> str:
    """What an engine's numbers come from: the bundle's own graph, else the tower and the code that makes its graph.

    It is known before there is a graph.

    Args:
        bundle: An opened bundle that has the component.
        component: siglip, projector or eagle.
    """
    key, own = graph_key(bundle, component), own_graph(bundle, component)
    source = [asdict(key)] if key is not None and not own else [bundle.manifest.files[file].sha256 for file in own]
    return _digest([RECIPE, *source], length=64)


class EngineCache:
    """The user's engines."""

    def __init__(self) -> None:
        self.directory = data_directory() / "engines"

    def find(self, key: EngineKey) -> bytes | None:
        """The engine of this key, else one that was built without the GPU; None: neither is there whole."""
        for wanted in dict.fromkeys((key, key.without_gpu())):
            engine = _read_engine(self.directory / wanted.file_name, wanted)
            if engine is not None:
                return engine
        return None

    def store(self, key: EngineKey, engine: bytes) -> Path:
        """Keeps an engine and removes those that it supersedes.

        Raises:
            OSError: The directory cannot be written, or is another user's.
        """
        path = self.directory / key.file_name
        _write(path, key, engine)
        for entry in self.entries():
            if key.supersedes(entry.key):
                _remove(entry.path)
        return path

    def remove(self, key: EngineKey) -> None:
        """Removes an engine that TensorRT does not take."""
        for wanted in (key, key.without_gpu()):
            _remove(self.directory / wanted.file_name)

    def entries(self) -> list[Entry]:
        """All engines whose head can be read."""
        found = []
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            with contextlib.suppress(OSError), open_own_file(path) as stream:
                head = _read_head(stream)
                if head is not None:
                    found.append(Entry(head.key, path, path.stat().st_size))
        return found

    def clear(self) -> tuple[int, int]:
        """Removes everything.

        Returns:
            How many files there were, and their bytes.

        Raises:
            OSError: Something cannot be removed.
        """
        return remove_directory(self.directory)

    def kernels(self, key: EngineKey, gpu: Gpu) -> bytes:
        """What TensorRT-RTX compiled for a GPU when it ran the engine before; empty: nothing."""
        return _read_engine(self._kernels_path(key, gpu), key) or b""

    def store_kernels(self, key: EngineKey, gpu: Gpu, kernels: bytes) -> None:
        """Keeps it for the next time; only time is lost where that fails."""
        with contextlib.suppress(OSError):
            _write(self._kernels_path(key, gpu), key, kernels)

    def _kernels_path(self, key: EngineKey, gpu: Gpu) -> Path:
        stem = key.without_gpu().file_name.removesuffix(SUFFIX)
        return self.directory / f"{stem}-{_digest(asdict(gpu))}{KERNELS_SUFFIX}"


@dataclass(frozen=True)
class _Head:
    key: EngineKey
    bytes: int
    sha256: str


def _read_engine(path: Path, key: EngineKey) -> bytes | None:
    try:
        with open_own_file(path) as stream:
            head = _read_head(stream)
            # What is larger than it says is not read: it may be larger than the memory.
            engine = stream.read(head.bytes + 1) if head is not None and head.key == key else b""
    except (OSError, MemoryError):
        return None
    whole = head is not None and hashlib.sha256(engine).hexdigest() == head.sha256
    return engine if whole else None


def _read_head(stream: BinaryIO) -> _Head | None:
    """What the first two lines of a file say; None: it is no engine of ours."""
    if stream.readline(_MOST_HEAD_BYTES) != _MAGIC:
        return None
    try:
        head = json.loads(stream.readline(_MOST_HEAD_BYTES))
        key = EngineKey(**{field.name: head[field.name] for field in fields(EngineKey)})
        words = {name: value for name, value in asdict(key).items() if name != "most_rows"}
        left = os.fstat(stream.fileno()).st_size - stream.tell()
        known = isinstance(key.most_rows, int) and all(isinstance(value, str) for value in words.values())
        return _Head(key, left, head["sha256"]) if known and head["bytes"] == left else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _digest(content: object, length: int = 16) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:length]


def _write(path: Path, key: EngineKey, content: bytes) -> None:
    """Writes an engine or kernels, and removes what writers have left behind that were killed."""
    directory = own_directory("engines")
    remove_abandoned(directory)
    head = {**asdict(key), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_own_file(path, _MAGIC, json.dumps(head).encode() + b"\n", content)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
