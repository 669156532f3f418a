"""How one matrix of the decoder is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from valley2_edge.errors import ExportError
from valley2_edge.precisions import GROUP_SIZES, DecoderPrecision

DEFAULT_GROUP_SIZE = 64
"""The number of columns that share a scale where neither the user nor the matrix decides."""

Code = Literal["uniform", "nf4"]
"""What the four bits of an int4 weight mean: a level of equal steps, or an index into the table of nf4_codes.py."""


_WEIGHT_BITS: dict[DecoderPrecision, int] = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}


@dataclass(frozen=True)
class MatrixFormat:
    """Precision of a matrix and, for int4 and int8, how its groups are scaled."""

    precision: DecoderPrecision
    group_size: int = DEFAULT_GROUP_SIZE
    """Number of columns that share a scale in int4 and int8."""
    symmetric: bool = False
    """Whether int4 has no zero points; int8 never has them."""
    code: Code = "uniform"
    """The code of int4; nf4 has no zero points, whatever `symmetric` says."""

    def __post_init__(self) -> None:
        if self.precision not in ("int4", "int8", "fp16", "fp32"):
            raise ExportError(f"precision {self.precision!r} is unknown: choose int4, int8, fp16 or fp32")
        if self.group_size not in GROUP_SIZES:
            raise ExportError(f"group size {self.group_size} is not supported: choose 32, 64 or 128")
        if self.code not in ("uniform", "nf4"):
            raise ExportError(f"code {self.code!r} is unknown: choose uniform or nf4")
        if self.code == "nf4" and self.precision != "int4":
            raise ExportError(f"nf4 is a code of four bits: it cannot be stored as {self.precision}")

    @property
    def bits(self) -> int:
        """Number of bits of a stored weight."""
        return _WEIGHT_BITS[self.precision]

    @property
    def quantized(self) -> bool:
        """Whether the matrix is stored as integers and scales."""
        return self.precision in ("int4", "int8")

    @property
    def has_zeros(self) -> bool:
        """Whether the groups have a stored zero point."""
        return self.precision == "int4" and not self.symmetric and self.code == "uniform"

    @property
    def is_symmetric(self) -> bool:
        """What the decoder's file says about zero points: False only where they are stored."""
        return not self.has_zeros

    def check_columns(self, name: str, columns: int) -> None:
        """Checks that a matrix divides into whole groups.

        Args:
            name: The matrix's name, for the message.
            columns: Number of input channels of the matrix.

        Raises:
            ExportError: The columns are not a multiple of the group size.
        """
        if self.quantized and columns % self.group_size:
            fitting = [str(size) for size in GROUP_SIZES if columns % size == 0]
            advice = f"choose {' or '.join(fitting)}" if fitting else "choose --precision fp16 or fp32"
            raise ExportError(
                f"{name} has {columns} columns, not a multiple of the group size {self.group_size}: {advice}"
            )
