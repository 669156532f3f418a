"""A safetensors file written tensor by tensor, so that it never has to fit in memory.

The format (https://github.com/huggingface/safetensors#format): 8 bytes header size, a JSON header, the data. A bundle's
files add one rule, which standard readers do not notice: every tensor begins at a multiple of 64 bytes of the file, so
that kernels can use a mapping of it directly. The header is padded with spaces; odd-sized tensors are followed by a
`_pad.<n>` tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from valley2_edge.errors import ExportError

ALIGNMENT = 64
"""Every tensor begins at a multiple of this many bytes of the file, which the core demands."""

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I32": torch.int32,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "I32"}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor that the file will hold."""

    name: str
    dtype: str
    """The dtype as safetensors spells it: F32, F16, BF16, U8 or I32."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Size of the tensor's data in bytes."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype.

    Args:
        dtype: float32, float16, bfloat16, uint8 or int32.

    Raises:
        ExportError: The dtype is another one.
    """
    if dtype not in _NAMES:
        raise ExportError(
            f"tensors of {dtype} are not supported: convert the checkpoint to bfloat16, float16 or float32"
        )
    return _NAMES[dtype]


def file_size(tensors: Sequence[TensorPlan], metadata: Mapping[str, str], *, padded: bool = True) -> int:
    """Size of the file that these tensors make, in bytes.

    Args:
        tensors: The plan of the file, in its order.
        metadata: Strings for the header's `__metadata__`.
        padded: Whether `_pad.<n>` tensors keep the others at multiples of 64 bytes.
    """
    plan = _with_padding(tensors) if padded else tensors
    return len(_header(plan, metadata)) + sum(tensor.size for tensor in plan)


class SafetensorsStream:
    """Writes the tensors of a plan in the plan's order; use it in a `with` block.

    Args:
        path: The file, replaced if it exists.
        tensors: Every tensor, in the order in which they will be written.
        metadata: Strings for the header's `__metadata__`.
        padded: Whether `_pad.<n>` tensors keep the others at multiples of 64 bytes.
    """

    def __init__(
        self, path: Path, tensors: Sequence[TensorPlan], metadata: Mapping[str, str], *, padded: bool = True
    ) -> None:
        self._path = path
        self._plan = _with_padding(tensors) if padded else list(tensors)
        self._metadata = dict(metadata)
        self._next = 0
        self._stream: BinaryIO | None = None

    def __enter__(self) -> SafetensorsStream:
        self._stream = self._path.open("wb")
        self._stream.write(_header(self._plan, self._metadata))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stream = self._open_stream()
        stream.close()
        self._stream = None
        if error is None and self._next != len(self._plan):
            raise ExportError(f"{self._path.name} was left without the tensor {self._plan[self._next].name}")

    def write(self, name: str, pieces: Iterable[torch.Tensor]) -> None:
        """Appends the next tensor.

        Args:
            name: The tensor's name, which must be the next one of the plan.
            pieces: The tensor's data in order, split anywhere; each piece has the planned dtype.

        Raises:
            ExportError: It is not the next tensor, or its dtype or size is not the planned one.
            OSError: The file cannot be written.
        """
        stream = self._open_stream()
        plan = self._plan[self._next] if self._next < len(self._plan) else None
        if plan is None or plan.name != name:
            raise ExportError(f"{name} is not the next tensor of {self._path.name}")
        written = 0
        for piece in pieces:
            if piece.dtype != _DTYPES[plan.dtype]:
                raise ExportError(f"{name} is {piece.dtype}, planned was {plan.dtype}")
            data = piece.contiguous().reshape(-1).view(torch.uint8).numpy().data
            written += len(data)
            stream.write(data)
        if written != plan.size:
            raise ExportError(f"{name} has {written} bytes, planned were {plan.size}")
        self._next += 1
        if self._next < len(self._plan) and _is_padding(self._plan[self._next]):
            stream.write(bytes(self._plan[self._next].size))
            self._next += 1

    def _open_stream(self) -> BinaryIO:
        if self._stream is None:
            raise ExportError(f"{self._path.name} is not open for writing")
        return self._stream


def _is_padding(plan: TensorPlan) -> bool:
    return plan.name.startswith("_pad.")


def _with_padding(tensors: Sequence[TensorPlan]) -> list[TensorPlan]:
    padded: list[TensorPlan] = []
    for plan in tensors:
        padded.append(plan)
        missing = -plan.size % ALIGNMENT
        if missing:
            padded.append(TensorPlan(f"_pad.{len(padded)}", "U8", (missing,)))
    return padded


def _header(plan: Sequence[TensorPlan], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in plan:
        if tensor.name in entries:
            raise ExportError(f"the tensor {tensor.name} is planned twice")
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size],
        }
        offset += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
