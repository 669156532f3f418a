"""Writes one file of weights that several ONNX graphs share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from valley2_edge.errors import ExportError
from valley2_edge.export.onnx.graph import LINE_BYTES, PAGE_BYTES


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file in the graph's directory."""

    location: str
    """The file's name."""
    offset: int
    """Distance from the file's beginning, in bytes."""
    dtype: str
    """Name of a numpy dtype, or "bfloat16"."""
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Number of bytes of one index of the first axis."""
        return prod(self.shape[1:]) * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)

    def rows(self, first: int, last: int) -> StoredTensor:
        """The rows from `first` up to `last`, which lie in the file as one piece."""
        return StoredTensor(
            self.location, self.offset + first * self.row_bytes, self.dtype, (last - first, *self.shape[1:])
        )

    def proto(self, name: str) -> onnx.TensorProto:
        """An initializer of a graph that refers to the file.

        Args:
            name: Name of the initializer in the graph.
        """
        kind = (
            TensorProto.BFLOAT16 if self.dtype == "bfloat16" else helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        )
        proto = TensorProto(name=name, data_type=kind, dims=self.shape, data_location=TensorProto.EXTERNAL)
        place = {"location": self.location, "offset": self.offset, "length": self.shape[0] * self.row_bytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        return proto


class WeightFile:
    """Writes tensors one after the other; use it in a `with` block.

    Args:
        path: The file; graphs that refer to it must lie in the same directory.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._stream = path.open("wb")

    def store(self, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]) -> StoredTensor:
        """Appends a tensor that comes in blocks of its first axis.

        Args:
            name: The tensor's name, for messages.
            dtype: Name of a numpy dtype.
            shape: The tensor's shape.
            blocks: The tensor, cut along its first axis.

        Returns:
            Where the tensor lies.

        Raises:
            ExportError: The blocks are not of this type, or not as many bytes as the shape takes.
        """
        stored = StoredTensor(self._name, 0, dtype, shape)
        expected = shape[0] * stored.row_bytes
        # Every tensor begins on a page, so that a runtime can map it.
        alignment = PAGE_BYTES if expected >= PAGE_BYTES else LINE_BYTES
        self._stream.write(bytes(-self._stream.tell() % alignment))
        begin = self._stream.tell()
        for block in blocks:
            if block.dtype != np.dtype(dtype):
                raise ExportError(f"The weight {name} comes in {block.dtype} instead of {dtype}.")
            self._stream.write(np.ascontiguousarray(block).data.cast("B"))
        if self._stream.tell() - begin != expected:
            raise ExportError(f"The weight {name} has {self._stream.tell() - begin} bytes instead of {expected}.")
        return StoredTensor(self._name, begin, dtype, shape)

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
