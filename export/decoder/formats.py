"""In which format each matrix of the decoder is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.decoder.parts import LM_HEAD, DecoderMatrix, decoder_parts
from valley2_edge.precisions import DecoderPrecision, default_group_size
from valley2_edge.quantize.matrix_format import DEFAULT_GROUP_SIZE, Code, MatrixFormat


@dataclass(frozen=True)
class DecoderFormats:
    """How the decoder's matrices are stored: the layers in one format, the output matrix in another."""

    layers: MatrixFormat
    lm_head: MatrixFormat

    @property
    def quantized(self) -> bool:
        """Whether any matrix is stored as integers."""
        return self.layers.quantized or self.lm_head.quantized

    def of(self, name: str) -> MatrixFormat:
        """The format of a matrix.

        Args:
            name: The matrix's name in a bundle.
        """
        return self.lm_head if name == LM_HEAD else self.layers


@dataclass(frozen=True)
class NamedFormats(DecoderFormats):
    """A format for each matrix; `layers` is the most frequent one."""

    named: Mapping[str, MatrixFormat]

    @property
    def quantized(self) -> bool:
        """Whether any matrix is stored as integers."""
        return any(matrix_format.quantized for matrix_format in self.named.values())

    def of(self, name: str) -> MatrixFormat:
        """The format of a matrix.

        Args:
            name: The matrix's name in a bundle.
        """
        return self.named[name]

    def with_lm_head(self, lm_head: MatrixFormat) -> NamedFormats:
        """The same formats with another one for lm_head.

        Args:
            lm_head: The format of lm_head.
        """
        return NamedFormats(self.layers, lm_head, {**self.named, LM_HEAD: lm_head})


def fitted_formats(formats: DecoderFormats, config: DecoderConfig) -> NamedFormats:
    """The same formats with the default group size of each matrix (`default_group_size`).

    Args:
        formats: The formats of layers and lm_head; their group sizes do not count.
        config: The decoder's sizes.
    """
    named = {}
    for part in decoder_parts(config):
        if isinstance(part, DecoderMatrix):
            chosen = formats.of(part.name)
            group_size = default_group_size(chosen.precision, part.name, part.columns)
            named[part.name] = replace(chosen, group_size=group_size)
    counts = Counter(matrix_format for name, matrix_format in named.items() if name != LM_HEAD)
    return NamedFormats(counts.most_common(1)[0][0], named[LM_HEAD], named)


def decoder_formats(
    precision: DecoderPrecision,
    *,
    group_size: int = DEFAULT_GROUP_SIZE,
    symmetric: bool | None = None,
    lm_head_precision: DecoderPrecision | None = None,
    code: Code = "uniform",
) -> DecoderFormats:
    """Chooses the formats of the layers and of lm_head.

    Args:
        precision: Precision of the layers.
        group_size: Number of columns that share a scale: 32, 64 or 128.
        symmetric: Whether int4 has no zero points. None means with zero points, unless the code has none.
        lm_head_precision: Precision of lm_head. None means int8 for an int4 decoder, else the decoder's own: this
            matrix decides every token and is read once per token, so four more bits there cost little.
        code: What the four bits of int4 mean.

    Raises:
        ExportError: A precision or a group size is not supported, or nf4 is to have zero points.
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
