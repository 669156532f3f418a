"""The precisions and engines that an export chooses among and a bundle's manifest states."""

from __future__ import annotations

from typing import Literal

DecoderPrecision = Literal["int4", "int8", "fp16", "fp32"]
DecoderEngine = Literal["native", "onnx"]
OnnxArithmetic = Literal["int8", "fp32", "fp16"]
"""How an ONNX decoder multiplies: with activations rounded to int8, or with floats of 32 or 16 bits."""
VisionPrecision = Literal["bf16", "int8", "fp32"]
"""Precision of the matrices of the vision towers."""
RotationChoice = Literal["hadamard", "none"]
"""Whether the weights absorb a rotation of the residual stream (rotation.py)."""
GraphFormat = Literal["onnx"]
"""Format of the graphs that a bundle may have beside its vision towers, for engines other than the core."""
GROUP_SIZES = (32, 64, 128)
"""The numbers of columns of a matrix of the decoder that may share a scale."""
LARGEST_VISION_ERROR: dict[VisionPrecision, float] = {"fp32": 1e-4, "bf16": 1e-2, "int8": 5e-2}
"""Largest relative error of a tower that an export accepts, by the precision of its matrices: norm of the difference
over norm of the reference. Where a machine widens bf16 to fp32, the error is that of fp32."""
LARGEST_ROW_ERROR: dict[VisionPrecision, float] = {"fp32": 1e-4, "bf16": 3e-2, "int8": 1.5e-1}
"""Largest relative error of one token of a picture on its own; rounding spreads unevenly over the tokens."""


def default_group_size(precision: DecoderPrecision, matrix: str, columns: int) -> int:
    """The number of columns that share a scale where nobody has chosen one.

    It is 128 in int4, because every scale is to be read and multiplied, but 64 in `down`: its inputs have outliers that
    no rotation absorbed into the weights can spread, and it loses most by rounding. It is 64 in int8, which is chosen
    to lose nothing, and where 128 does not divide the columns. Measured: docs/quantization-results.md.

    Args:
        precision: The precision of the matrix.
        matrix: The matrix's name in a bundle.
        columns: Number of its columns.
    """
    return 64 if precision != "int4" or matrix.endswith(".mlp.down") or columns % 128 else 128
