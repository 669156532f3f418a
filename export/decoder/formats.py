"""In which format each matrix of the decoder is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from valley2_edge.errors import ExportError
from valley2_edge.export.decoder.parts import LM_HEAD
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.matrix_format import Code, MatrixFormat


@dataclass(frozen=True)
class DecoderFormats:
    """How the decoder's matrices are stored."""

    layers: MatrixFormat
    lm_head: MatrixFormat

    @property
    def quantized(self) -> bool:
        """Whether any matrix is stored as integers."""
        return self.layers.quantized or self.lm_head.quantized

    def of(self, name: str) -> MatrixFormat:
        """The format of the matrix with this name."""
        return self.lm_head if name == LM_HEAD else self.layers


@dataclass(frozen=True)
class NamedFormats(DecoderFormats):
    """A format for each matrix by its name; `layers` is the most frequent one."""

    named: Mapping[str, MatrixFormat]

    @property
    def quantized(self) -> bool:
        """Whether any matrix is stored as integers."""
        return any(matrix_format.quantized for matrix_format in self.named.values())

    def of(self, name: str) -> MatrixFormat:
        """The format of the matrix with this name."""
        return self.named[name]

    def with_lm_head(self, lm_head: MatrixFormat) -> NamedFormats:
        """The same formats with another one for lm_head."""
        return NamedFormats(self.layers, lm_head, {**self.named, LM_HEAD: lm_head})


def decoder_formats(
    precision: DecoderPrecision,
    *,
    group_size: int = 128,
    symmetric: bool | None = None,
    lm_head_precision: DecoderPrecision | None = None,
    code: Code = "uniform",
) -> DecoderFormats:
    """The formats of the layers and of lm_head.

    Args:
        precision: Of the layers.
        group_size: Columns that share a scale: 32, 64 or 128.
        symmetric: int4 without zero points; None: with them, unless the code has none.
        lm_head_precision: None: int8 for an int4 decoder, else the decoder's own; the last matrix decides every token
            and is read once per token, so four more bits there cost little.
        code: What the four bits of int4 mean.

    Raises:
        ExportError: A precision or a group size is not supported, or zero points are asked of nf4.
    """
    if code == "nf4" and symmetric is False:
        raise ExportError("nf4 has no zero points: --asymmetric does not go with --method nf4")
    zeroless = bool(symmetric)
    if lm_head_precision is None:
        lm_head_precision = "int8" if precision == "int4" else precision
    return DecoderFormats(
        layers=MatrixFormat(precision, group_size, zeroless, code),
        lm_head=MatrixFormat(
            lm_head_precision, group_size, zeroless, code if lm_head_precision == "int4" else "uniform"
        ),
    )
