"""Writes the file of a native tower: parts that are read, rounded and written one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from valley2_edge.errors import ExportError
from valley2_edge.export.bundle.safetensors_stream import SafetensorsStream, TensorPlan
from valley2_edge.export.vision.native_panels import (
    BYTES_PER_WORD,
    PANEL,
    pack_floats,
    pack_int8,
    pad_rows,
    panel_shape,
    round_matrix,
)
from valley2_edge.precisions import VisionPrecision

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class MatrixPlan:
    """One matrix of a tower."""

    name: str
    precision: VisionPrecision
    outputs: int
    columns: int
    bias: bool

    def tensors(self) -> list[TensorPlan]:
        """The tensors that the matrix becomes in the file."""
        padded = (-(-self.outputs // PANEL) * PANEL,)
        if self.precision == "fp32":
            plan = [TensorPlan(f"{self.name}.weight", "F32", panel_shape(self.outputs, self.columns, 1))]
        elif self.precision == "bf16":
            plan = [TensorPlan(f"{self.name}.weight", "BF16", panel_shape(self.outputs, self.columns, 2))]
        else:
            plan = [
                TensorPlan(f"{self.name}.weight", "U8", panel_shape(self.outputs, self.columns, BYTES_PER_WORD)),
                TensorPlan(f"{self.name}.scales", "F32", padded),
                TensorPlan(f"{self.name}.sums", "I32", padded),
            ]
        return [*plan, TensorPlan(f"{self.name}.bias", "F32", padded)] if self.bias else plan

    def entry(self) -> dict[str, object]:
        """The entry of the matrix in the file's metadata."""
        return {"precision": self.precision, "rows": self.outputs, "columns": self.columns}

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Tensors:
        """Rounds and packs the matrix.

        Args:
            weight: (outputs, columns), any float dtype.
            bias: (outputs,), or None where the plan has no bias.

        Returns:
            The tensors of `tensors`, by name.

        Raises:
            ExportError: A number is a NaN or an infinity, or the shape is not the planned one.
        """
        if tuple(weight.shape) != (self.outputs, self.columns) or (bias is None) == self.bias:
            raise ExportError(f"The matrix {self.name} has not its planned shape.")
        _check_finite(self.name, weight)
        packed = {} if bias is None else {f"{self.name}.bias": padded_vector(f"{self.name}.bias", bias)}
        if self.precision == "fp32":
            return packed | {f"{self.name}.weight": pack_floats(weight.float())}
        if self.precision == "bf16":
            return packed | {f"{self.name}.weight": pack_floats(weight.to(torch.bfloat16))}
        rounded = round_matrix(weight.float())
        return packed | {
            f"{self.name}.weight": pack_int8(rounded.q),
            f"{self.name}.scales": pad_rows(rounded.scales),
            f"{self.name}.sums": pad_rows(rounded.q.sum(dim=1, dtype=torch.int32)),
        }


def precision_beside_int8(precision: VisionPrecision) -> VisionPrecision:
    """The precision of a matrix that stays in bf16 where a tower's layers are int8.

    Args:
        precision: Precision of the layers' matrices.
    """
    return "bf16" if precision == "int8" else precision


@dataclass(frozen=True)
class Part:
    """Tensors of a tower that are made in one go."""

    tensors: Sequence[TensorPlan]
    matrices: Sequence[MatrixPlan]
    make: Callable[[], Tensors]


def vector_plan(name: str, *shape: int) -> TensorPlan:
    """The plan of a float32 vector, or of rows of vectors, whose last axis is padded to a multiple of 32.

    Args:
        name: The tensor's name.
        shape: The shape before padding.
    """
    return TensorPlan(name, "F32", (*shape[:-1], -(-shape[-1] // PANEL) * PANEL))


def padded_vector(name: str, values: torch.Tensor) -> torch.Tensor:
    """A vector as the file holds it: float32, padded with zeros to a multiple of 32.

    Args:
        name: The tensor's name, for messages.
        values: (..., width), any float dtype.

    Raises:
        ExportError: A number is a NaN or an infinity.
    """
    _check_finite(name, values)
    return pad_rows(values.float())


def write_tower(path: Path, tower: str, config: dict[str, Any], parts: Sequence[Part]) -> None:
    """Writes a tower's file part by part.

    Args:
        path: The file.
        tower: "siglip", "projector" or "eagle".
        config: The sizes that the kernels need.
        parts: The parts, in the order of the file.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: A number is a NaN or an infinity.
        OSError: The file cannot be written.
    """
    metadata = {
        "format": "valley2-tower",
        "format_version": "1",
        "tower": tower,
        "config": json.dumps(config),
        "matrices": json.dumps({matrix.name: matrix.entry() for part in parts for matrix in part.matrices}),
    }
    with SafetensorsStream(path, [tensor for part in parts for tensor in part.tensors], metadata) as stream:
        for part in parts:
            made = part.make()
            for tensor in part.tensors:
                stream.write(tensor.name, [made.pop(tensor.name)])


def _check_finite(name: str, values: torch.Tensor) -> None:
    # A tensor with a NaN has it as its minimum and maximum.
    if not all(bool(torch.isfinite(extreme)) for extreme in values.float().aminmax()):
        raise ExportError(f"The tensor {name} holds a NaN or an infinity.")
