"""Safetensors files, read by header first and tensor by tensor after that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from valley2_edge.errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    shard: Path
    dtype: str
    """As safetensors spells it: BF16, F16, F32."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""
    size: int
    """Bytes."""


def read_header(shard: Path) -> dict[str, StoredTensor]:
    """Reads the header of a safetensors file and checks every rule of the format.

    Args:
        shard: The file; no tensor of it is read.

    Raises:
        CheckpointError: The file is missing, truncated, or not a safetensors file.
    """
    try:
        file_size = shard.stat().st_size
        with shard.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if file_size < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, file_size - LENGTH_BYTES):
                raise CheckpointError(f"{shard} is truncated or is not a safetensors file; fetch it again.")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise CheckpointError(f"{shard} cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{shard} is not a safetensors file: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{shard} is not a safetensors file: its header is not a JSON object.")
    header.pop("__metadata__", None)
    data_start = LENGTH_BYTES + length
    tensors = {name: _stored_tensor(shard, name, entry, data_start) for name, entry in header.items()}
    _check_extent(shard, list(tensors.values()), data_start, file_size)
    return tensors


def _stored_tensor(shard: Path, name: str, entry: object, data_start: int) -> StoredTensor:
    try:
        if not isinstance(entry, dict):
            raise TypeError("not an object")
        dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{shard} has a malformed entry for the tensor {name}.") from error
    if dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{shard} stores the tensor {name} as {dtype}, which is not a known type.")
    if min(shape, default=1) < 0 or begin < 0 or end - begin != prod(shape) * DTYPE_BYTES[dtype]:
        raise CheckpointError(f"{shard} gives the tensor {name} a size that does not fit its shape {list(shape)}.")
    return StoredTensor(shard, dtype, shape, data_start + begin, end - begin)


def _check_extent(shard: Path, tensors: list[StoredTensor], data_start: int, file_size: int) -> None:
    expected = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
        if tensor.offset != expected:
            raise CheckpointError(f"{shard} is damaged: its tensors overlap or leave holes.")
        expected += tensor.size
    if expected > file_size:
        raise CheckpointError(f"{shard} is truncated: {expected} bytes are announced, {file_size} are there.")
    if expected < file_size:
        raise CheckpointError(f"{shard} has {file_size - expected} bytes after its last tensor; fetch it again.")


def find_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a checkpoint directory: one `model.safetensors`, or the shards of its index.

    Raises:
        CheckpointError: Neither exists, the index is malformed or names a missing file, or index and shards disagree.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if index.is_file():
        return _sharded_tensors(directory, index)
    if single.is_file():
        return read_header(single)
    raise CheckpointError(f"{directory} has neither model.safetensors nor model.safetensors.index.json.")


def _sharded_tensors(directory: Path, index: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        shard_names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error}).") from error
    tensors: dict[str, StoredTensor] = {}
    for shard_name in shard_names:
        if not isinstance(shard_name, str) or Path(shard_name).name != shard_name:
            raise CheckpointError(f"{index} names {shard_name!r}, which is not a file of this directory.")
        if not (directory / shard_name).is_file():
            raise CheckpointError(f"{index} names {shard_name}, which is not there; fetch it again.")
        for name, tensor in read_header(directory / shard_name).items():
            if weight_map.get(name) != shard_name:
                raise CheckpointError(f"{shard_name} holds the tensor {name}, which {index.name} does not place there.")
            tensors[name] = tensor
    for name, shard_name in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{index.name} places the tensor {name} in {shard_name}, which does not hold it.")
    return tensors
