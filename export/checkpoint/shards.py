"""Finds the tensors of a checkpoint from the headers of its safetensors files, without reading any tensor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

from valley2_edge.errors import CheckpointError
from valley2_edge.outside_files import decode, json_object, open_regular, parse_json, read_json, shown

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20
"""Largest header that is read; the release has 150 kB."""
_MAX_VALUES = 1_000_000
_MAX_DIMENSIONS = 16
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a file."""

    shard: Path
    dtype: str
    """The dtype as safetensors spells it, for example BF16."""
    shape: tuple[int, ...]
    offset: int
    """Distance from the beginning of the file, in bytes."""
    size: int
    """Size of the data, in bytes."""


def read_header(shard: Path) -> dict[str, StoredTensor]:
    """Reads the header of a safetensors file and checks every rule of the format.

    Args:
        shard: The file; no tensor of it is read.

    Returns:
        Where each tensor lies, by its name.

    Raises:
        CheckpointError: The file is missing, truncated, or not a safetensors file.
    """
    try:
        with open_regular(shard, CheckpointError) as stream:
            file_size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if file_size < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, file_size - LENGTH_BYTES):
                raise CheckpointError(f"{shard} is truncated or is not a safetensors file; fetch it again.")
            content = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{shard} cannot be read ({error.strerror}).") from error
    where = f"{shard}: its header"
    text = decode(content, where, CheckpointError)
    header = json_object(parse_json(text, where, CheckpointError, max_values=_MAX_VALUES), where, CheckpointError)
    header.pop("__metadata__", None)
    data_start = LENGTH_BYTES + length
    tensors = {name: _stored_tensor(shard, name, entry, data_start) for name, entry in header.items()}
    _check_extent(shard, list(tensors.values()), data_start, file_size)
    return tensors


def _stored_tensor(shard: Path, name: str, entry: object, data_start: int) -> StoredTensor:
    try:
        if not isinstance(entry, dict):
            raise TypeError("not an object")
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if any(type(number) is not int for number in (*shape, begin, end)) or len(shape) > _MAX_DIMENSIONS:
            raise TypeError("not whole numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{shard} has a malformed entry for the tensor {shown(name)}.") from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{shard} stores the tensor {shown(name)} as {shown(dtype)}, which is not a known type.")
    if min(shape, default=1) < 0 or begin < 0 or end - begin != prod(shape) * DTYPE_BYTES[dtype]:
        raise CheckpointError(
            f"{shard} gives the tensor {shown(name)} a size that does not fit its shape {shown(list(shape))}."
        )
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

    Args:
        directory: The checkpoint.

    Returns:
        Where each tensor lies, by its name.

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
    weight_map = read_json(index, CheckpointError, limit=MAX_HEADER_BYTES, max_values=_MAX_VALUES).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} is not an index of shards: it has no weight_map of file names.")
    tensors: dict[str, StoredTensor] = {}
    for shard_name in sorted(set(weight_map.values())):
        if not _is_file_name(shard_name):
            raise CheckpointError(f"{index} names {shown(shard_name)}, which is not a file of this directory.")
        if not (directory / shard_name).is_file():
            raise CheckpointError(f"{index} names {shard_name}, which is not there; fetch it again.")
        for name, tensor in read_header(directory / shard_name).items():
            if weight_map.get(name) != shard_name:
                raise CheckpointError(
                    f"{shard_name} holds the tensor {shown(name)}, which {index.name} does not place there."
                )
            tensors[name] = tensor
    for name, shard_name in weight_map.items():
        if name not in tensors:
            raise CheckpointError(
                f"{index.name} places the tensor {shown(name)} in {shard_name}, which does not hold it."
            )
    return tensors


def _is_file_name(name: str) -> bool:
    """Whether a name means a file of the directory itself, on every operating system."""
    return Path(name).name == name and name.isprintable() and not any(mark in name for mark in "/\\:")
