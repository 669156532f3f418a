"""Opens a Valley2 checkpoint and reads its tensors one at a time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from valley2_edge.config import ModelConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.config import read_model_config
from valley2_edge.export.checkpoint.shards import StoredTensor, find_tensors
from valley2_edge.export.checkpoint.tensor_names import required_tensors, unused_tensors
from valley2_edge.outside_files import MAX_JSON_BYTES, is_directory, open_regular, read_bytes
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.tokenizer import Tokenizer

_PIECE = 16 << 20  # bytes that are read between two checks for cancellation
TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Checkpoint:
    """An open checkpoint directory whose every tensor has been checked by its header; nothing is loaded yet.

    Attributes:
        path: The directory.
        name: The hub id when the directory is a hub snapshot, otherwise the directory's name.
        revision: The hub's commit, None for a plain directory.
        config: The architecture.
        unused: Names of the tensors in the files that no answer depends on.
        cancel: Checked between the pieces of every read; another token may be set at any time.
    """

    def __init__(self, path: Path, config: ModelConfig, tensors: dict[str, StoredTensor], unused: tuple[str, ...]):
        self.path = path
        self.name, self.revision = _origin(path)
        self.config = config
        self.unused = unused
        self._tensors = tensors
        self.cancel = CancelToken()
        self._streams: dict[Path, BinaryIO] = {}

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Opens a checkpoint and checks it by headers only.

        Args:
            path: A directory with config.json, the tokenizer, and model.safetensors or its shards.

        Raises:
            CheckpointError: A file or tensor is missing, extra, misshapen or of another type than bf16, fp16 or fp32.
        """
        directory = Path(path)
        if not is_directory(directory):
            raise CheckpointError(f"{directory} is not a directory with a checkpoint.")
        config = read_model_config(directory)
        _check_vocabulary(directory, config.decoder.vocab_size)
        tensors = find_tensors(directory)
        unused = _check_tensors(config, tensors)
        return cls(directory, config, tensors, unused)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the shards; a later read opens them again."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header.

        Raises:
            CheckpointError: There is no such tensor.
        """
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored.

        Raises:
            CheckpointError: There is no such tensor.
        """
        return TORCH_DTYPES[self._entry(name).dtype]

    def tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor in its stored dtype, into memory of its own.

        Args:
            name: The tensor's name.

        Raises:
            CheckpointError: There is no such tensor, or the file has changed since it was opened.
            Cancelled: `cancel` was set.
        """
        entry = self._entry(name)
        return self._read(name, entry, entry.offset, entry.shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads some rows of a tensor, so that a large matrix never has to be held whole.

        Args:
            name: The tensor's name.
            start: The first row.
            stop: The row behind the last one.

        Raises:
            CheckpointError: There is no such tensor, it has no such rows, or the file has changed.
            Cancelled: `cancel` was set.
        """
        entry = self._entry(name)
        if not entry.shape or not 0 <= start <= stop <= entry.shape[0]:
            raise CheckpointError(f"The tensor {name} of shape {list(entry.shape)} has no rows {start}..{stop}.")
        row_bytes = entry.size // max(entry.shape[0], 1)
        return self._read(name, entry, entry.offset + start * row_bytes, (stop - start, *entry.shape[1:]))

    def fingerprint(self) -> str:
        """SHA-256 over the names, sizes and times of the files and the content of the configs; no tensor is read."""
        digest = hashlib.sha256()
        for file in sorted(file for file in self.path.iterdir() if file.is_file()):
            status = file.stat()
            digest.update(os.fsencode(file.name) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            if file.name in ("config.json", "generation_config.json", "vision_geometry.json"):
                digest.update(read_bytes(file, MAX_JSON_BYTES, CheckpointError))
        return digest.hexdigest()

    def _entry(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise CheckpointError(f"The checkpoint {self.name} has no tensor {name}.")
        return self._tensors[name]

    def _read(self, name: str, entry: StoredTensor, offset: int, shape: tuple[int, ...]) -> torch.Tensor:
        # Plain reads, not a mapping: mapped pages would count as this process's memory until the shard is closed.
        tensor = torch.empty(shape, dtype=TORCH_DTYPES[entry.dtype])
        target = tensor.view(-1).view(torch.uint8).numpy().data
        try:
            if entry.shard not in self._streams:
                self._streams[entry.shard] = open_regular(entry.shard, CheckpointError)
            stream = self._streams[entry.shard]
            stream.seek(offset)
            done = 0
            self.cancel.check()
            while done < len(target) and (count := stream.readinto(target[done : done + _PIECE])):  # type: ignore[attr-defined]
                done += count
                self.cancel.check()
        except OSError as error:
            raise CheckpointError(f"{entry.shard} cannot be read ({error.strerror}).") from error
        if done < len(target):
            raise CheckpointError(f"{entry.shard} has become shorter: the tensor {name} cannot be read.")
        return tensor


def _origin(path: Path) -> tuple[str, str | None]:
    """The name and the revision; a hub cache keeps a snapshot at models--OWNER--NAME/snapshots/COMMIT."""
    parts = path.absolute().parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    return path.resolve().name, None


def _check_tensors(config: ModelConfig, tensors: dict[str, StoredTensor]) -> tuple[str, ...]:
    required, known = required_tensors(config), unused_tensors(config)
    for name, shape in required.items():
        if name not in tensors:
            raise CheckpointError(f"The checkpoint lacks the tensor {name} of shape {list(shape)}.")
        entry = tensors[name]
        if entry.shape != shape:
            raise CheckpointError(f"The tensor {name} has shape {list(entry.shape)}; {list(shape)} is expected.")
        if entry.dtype not in TORCH_DTYPES:
            raise CheckpointError(f"The tensor {name} is stored as {entry.dtype}; BF16, F16 or F32 is expected.")
    unused = tuple(name for name in tensors if name not in required)
    for name in unused:
        if name not in known:
            raise CheckpointError(f"The checkpoint has a tensor {name} that a Valley2 model does not have.")
    return unused


def _check_vocabulary(directory: Path, vocab_size: int) -> None:
    largest = Tokenizer(directory / "tokenizer.json", error=CheckpointError).largest_id
    if largest >= vocab_size:
        raise CheckpointError(
            f"config.json: vocab_size {vocab_size} is smaller than the tokenizer, which has a token {largest}."
        )
