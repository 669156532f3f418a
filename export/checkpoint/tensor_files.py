"""Reads tensors of a directory of safetensors files without keeping any file open."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.shards import StoredTensor, find_tensors, read_header

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I32": torch.int32}


class TensorFiles:
    """The tensors of model.safetensors, of the shards of its index, or of the only safetensors file of a directory.

    Args:
        directory: The directory with the files.

    Raises:
        CheckpointError: There is no such file, or one is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tensors = _find(directory)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header.

        Raises:
            CheckpointError: There is no such tensor.
        """
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored.

        Raises:
            CheckpointError: There is no such tensor, or it is none of bfloat16, float16, float32 and int32.
        """
        dtype = self._entry(name).dtype
        if dtype not in _DTYPES:
            raise CheckpointError(f"the tensor {name} of {self.directory} is stored as {dtype}, which is not supported")
        return _DTYPES[dtype]

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads some rows of a tensor in its stored dtype.

        Args:
            name: The tensor's name.
            start: The first row.
            stop: The row behind the last one.

        Raises:
            CheckpointError: There is no such tensor, or its file cannot be read.
        """
        shard = self._entry(name).shard
        try:
            # The file is opened anew: a mapping that stayed open would count as memory of this process.
            with safe_open(shard, "pt") as reader:
                piece: torch.Tensor = reader.get_slice(name)[start:stop]
                return piece.clone()
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{shard} cannot be read: {name}: {error}") from error

    def tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor in its stored dtype.

        Args:
            name: The tensor's name.

        Raises:
            CheckpointError: There is no such tensor, or its file cannot be read.
        """
        shape = self.shape(name)
        if not shape:
            raise CheckpointError(f"the tensor {name} of {self.directory} is one number, not an array")
        return self.rows(name, 0, shape[0])

    def _entry(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise CheckpointError(f"{self.directory} has no tensor {name}")
        return self._tensors[name]


def _find(directory: Path) -> dict[str, StoredTensor]:
    if not any((directory / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        files = list(directory.glob("*.safetensors"))
        if len(files) == 1:  # AutoGPTQ names it after the bits and the group size
            return read_header(files[0])
    return find_tensors(directory)
