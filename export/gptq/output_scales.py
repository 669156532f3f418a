"""Stores the scales of an output matrix that a GPTQ checkpoint holds as floats (docs/interchange.md).

The layout keeps lm_head as plain weights: float32 products of integers and fp16 scales, which are exact. With the
scales beside them the integers are found again, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open

from valley2_edge.errors import CheckpointError
from valley2_edge.outside_files import open_regular, shown
from valley2_edge.precisions import GROUP_SIZES, DecoderPrecision
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import INT4_ZERO, INT8_ZERO

SCALES_FILE = "valley2/output_scales.safetensors"
"""The file with the scales. It has a directory of its own, because loaders take every safetensors file beside the model
for a part of the model."""
SCALES_TENSOR = "scales"
ZEROS_TENSOR = "zeros"
_FORMAT = "valley2-output-scales"


@dataclass(frozen=True)
class OutputScales:
    """Scales and zero points of lm_head."""

    format: MatrixFormat
    scales: torch.Tensor
    """(rows, groups) float16."""
    zeros: torch.Tensor | None
    """(rows, groups) uint8 for asymmetric int4."""

    @staticmethod
    def metadata(matrix_format: MatrixFormat) -> dict[str, str]:
        """The strings in the header of the file.

        Args:
            matrix_format: How lm_head is stored in a bundle.
        """
        return {
            "format": _FORMAT,
            "precision": matrix_format.precision,
            "group_size": str(matrix_format.group_size),
            "symmetric": str(matrix_format.is_symmetric).lower(),
        }

    @classmethod
    def read(cls, path: Path, rows: int, columns: int) -> OutputScales:
        """Reads the file.

        Args:
            path: The file.
            rows: Number of rows of lm_head.
            columns: Number of columns of lm_head.

        Raises:
            CheckpointError: The file is damaged, or belongs to a matrix of another size.
        """
        open_regular(path, CheckpointError).close()
        try:
            with safe_open(path, "pt") as reader:
                facts = reader.metadata() or {}
                precision, group_size = facts["precision"], int(facts["group_size"])
                if precision not in ("int4", "int8") or group_size not in GROUP_SIZES:
                    raise ValueError(f"precision {shown(precision)} and group_size {group_size} are not supported")
                matrix_format = MatrixFormat(
                    cast(DecoderPrecision, precision), group_size, facts["symmetric"] == "true"
                )
                scales = reader.get_tensor(SCALES_TENSOR).clone()
                zeros = reader.get_tensor(ZEROS_TENSOR).clone() if matrix_format.has_zeros else None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        matrix_format.check_columns("lm_head", columns)
        shape = (rows, columns // matrix_format.group_size)
        if facts.get("format") != _FORMAT or scales.dtype != torch.float16 or tuple(scales.shape) != shape:
            raise CheckpointError(f"{path} does not hold fp16 scales of the shape {list(shape)}")
        if zeros is not None and (zeros.dtype != torch.uint8 or tuple(zeros.shape) != shape):
            raise CheckpointError(f"{path} does not hold zero points of the shape {list(shape)}")
        return cls(matrix_format, scales, zeros)

    def integers(self, weights: torch.Tensor, first_row: int) -> torch.Tensor:
        """Finds the integers whose products with the scales are the weights.

        Args:
            weights: Some rows of lm_head, (rows, columns) float32.
            first_row: Number of the first of these rows.

        Returns:
            (rows, columns) uint8; the zero point where a scale is 0.

        Raises:
            CheckpointError: A weight is not such a product.
        """
        rows, columns = weights.shape
        span = slice(first_row, first_row + rows)
        scales = self.scales[span].to(torch.float32)[..., None]  # (rows, groups, 1)
        groups = weights.to(torch.float32).reshape(rows, -1, self.format.group_size)
        levels = torch.where(scales == 0, 0.0, groups / torch.where(scales == 0, 1.0, scales)).round_()
        exact = bool((levels * scales == groups).all())
        if self.zeros is not None:
            levels += self.zeros[span].to(torch.float32)[..., None]
        else:
            levels += INT4_ZERO if self.format.precision == "int4" else INT8_ZERO
        highest = 15 if self.format.precision == "int4" else 255
        if not exact or not bool(((levels >= 0) & (levels <= highest)).all()):
            raise CheckpointError(
                f"lm_head.weight does not consist of multiples of the scales in {SCALES_FILE}: it was changed since; "
                "remove that file to take the weights as they are"
            )
        return levels.to(torch.uint8).reshape(rows, columns)
