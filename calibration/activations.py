"""Keeps the activations between two layers for all packs, in memory or in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import torch

from valley2_edge.errors import ExportError

ITEM_BYTES = 4


class Activations(Protocol):
    """One (rows, width) float32 tensor for each pack."""

    def read(self, pack: int) -> torch.Tensor:
        """Reads the rows of a pack into memory of their own."""

    def write(self, pack: int, rows: torch.Tensor) -> None:
        """Replaces the rows of a pack."""

    def save(self, path: Path) -> None:
        """Makes the file at `path` hold all rows, safely on disk."""

    def close(self) -> None:
        """Frees the memory or closes the file; a saved file stays."""


class MemoryActivations:
    """Activations in memory.

    Args:
        lengths: Number of rows of each pack.
        width: Number of channels of a row.
    """

    def __init__(self, lengths: Sequence[int], width: int) -> None:
        self._packs = [torch.zeros(length, width) for length in lengths]

    def read(self, pack: int) -> torch.Tensor:
        """Reads the rows of a pack into memory of their own."""
        return self._packs[pack].clone()

    def write(self, pack: int, rows: torch.Tensor) -> None:
        """Replaces the rows of a pack."""
        self._packs[pack].copy_(rows)

    def save(self, path: Path) -> None:
        """Makes the file at `path` hold all rows, safely on disk."""
        with path.open("wb") as stream:
            for rows in self._packs:
                stream.write(_bytes_of(rows))
            _flush(stream)

    def close(self) -> None:
        """Frees the memory."""
        self._packs.clear()


class FileActivations:
    """Activations in a file.

    Plain reads and writes, not a mapping: the pages of a mapping would count as memory of this process.

    Args:
        path: The file, which is made where it does not exist.
        lengths: Number of rows of each pack.
        width: Number of channels of a row.
    """

    def __init__(self, path: Path, lengths: Sequence[int], width: int) -> None:
        self._path = path
        self._lengths = list(lengths)
        self._width = width
        self._starts = [sum(self._lengths[:pack]) * width * ITEM_BYTES for pack in range(len(self._lengths))]
        path.touch()
        self._stream: BinaryIO = path.open("rb+", buffering=0)

    def read(self, pack: int) -> torch.Tensor:
        """Reads the rows of a pack into memory of their own.

        Raises:
            ExportError: The file is shorter than it was.
        """
        rows = torch.empty(self._lengths[pack], self._width)
        target = _bytes_of(rows)
        self._stream.seek(self._starts[pack])
        done = 0
        while done < len(target) and (count := self._stream.readinto(target[done:])):  # type: ignore[attr-defined]
            done += count
        if done < len(target):
            raise ExportError(f"{self._path} has become shorter while it was in use: run export again")
        return rows

    def write(self, pack: int, rows: torch.Tensor) -> None:
        """Replaces the rows of a pack."""
        data = _bytes_of(rows.to("cpu", torch.float32).contiguous())
        self._stream.seek(self._starts[pack])
        done = 0
        while done < len(data):
            done += self._stream.write(data[done:])

    def save(self, path: Path) -> None:
        """Waits until the file is safe on disk.

        Args:
            path: The path of this file.

        Raises:
            ExportError: The path is that of another file.
        """
        if path != self._path:
            raise ExportError(f"activations in {self._path} cannot be saved as {path}")
        _flush(self._stream)

    def close(self) -> None:
        """Closes the file, which stays."""
        self._stream.close()

    def __enter__(self) -> FileActivations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_activations(path: Path, lengths: Sequence[int], width: int, *, in_memory: bool, saved: bool) -> Activations:
    """Opens activations that are saved on disk, or will be.

    Args:
        path: Where they are saved, or will be.
        lengths: Number of rows of each pack.
        width: Number of channels of a row.
        in_memory: Whether they are held in memory.
        saved: Whether the file holds them already.

    Raises:
        ExportError: The saved file is missing or too short.
    """
    expected = sum(lengths) * width * ITEM_BYTES
    if saved and (not path.is_file() or path.stat().st_size != expected):
        raise ExportError(f"{path} is missing or incomplete: delete its directory and export again")
    if not in_memory:
        return FileActivations(path, lengths, width)
    activations = MemoryActivations(lengths, width)
    if saved:
        with FileActivations(path, lengths, width) as stored:
            for pack in range(len(lengths)):
                activations.write(pack, stored.read(pack))
    return activations


def _bytes_of(rows: torch.Tensor) -> memoryview:
    view: memoryview = rows.view(-1).view(torch.uint8).numpy().data
    return view


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
