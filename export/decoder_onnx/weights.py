"""Writes the decoder's weights as MatMulNBits and the other operators of the graphs take them (docs/bundle.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.control import Progress
from valley2_edge.export.decoder.parts import DecoderMatrix, DecoderNorm, decoder_parts
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.onnx.weights import StoredTensor, WeightFile
from valley2_edge.quantize.matrix_format import MatrixFormat

Array = NDArray[Any]

STAGE = "onnx decoder"
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix (rows, columns) of the decoder in the file of weights."""

    format: MatrixFormat
    rows: int
    columns: int
    weight: StoredTensor
    """int4: uint8 (rows, groups, group size / 2), even columns in the low halves. int8: uint8 (rows, groups, group
    size), q + 128. Floats: (rows, columns)."""
    scales: StoredTensor | None = None
    """float16 (rows, groups)."""
    zeros: StoredTensor | None = None
    """uint8 (rows, ceil(groups / 2)), even groups in the low halves."""
    bias: StoredTensor | None = None
    """float32 (rows,)."""

    def part(self, first: int, last: int) -> StoredMatrix:
        """The rows from `first` up to `last`."""
        parts = (None if one is None else one.rows(first, last) for one in (self.scales, self.zeros, self.bias))
        return StoredMatrix(self.format, last - first, self.columns, self.weight.rows(first, last), *parts)


@dataclass(frozen=True)
class StoredDecoderWeights:
    """The weights that the decoder's graphs refer to."""

    matrices: dict[str, StoredMatrix]
    norms: dict[str, StoredTensor]
    """float32 (hidden,)."""
    cosine: StoredTensor
    """float32 (positions, head size / 2): cosines of the rotary angles of each position."""
    sine: StoredTensor
    """float32 (positions, head size / 2): the sines."""


def store_decoder(decoder: StoredDecoder, file: WeightFile, progress: Progress) -> StoredDecoderWeights:
    """Writes every weight, with no more in memory than a block of rows and the scales of one matrix.

    Args:
        decoder: The native decoder, whose integers, scales and zero points are taken over as they are.
        file: The file that the weights are written to.
        progress: Called after every part.

    Returns:
        Where each weight lies in the file.

    Raises:
        ExportError: A matrix is in nf4, whose levels MatMulNBits does not have.
        OSError: The file cannot be written.
    """
    config = decoder.config
    parts = decoder_parts(config)
    matrices: dict[str, StoredMatrix] = {}
    norms: dict[str, StoredTensor] = {}
    for index, part in enumerate(parts):
        if isinstance(part, DecoderNorm):
            weight = decoder.tensor(part.name).numpy()
            norms[part.name] = file.store(part.name, "float32", weight.shape, [weight])
        else:
            matrices[part.name] = _store_matrix(decoder, part, file)
        progress(STAGE, index + 1, len(parts))
    cosine, sine = (file.store(name, "float32", table.shape, [table]) for name, table in _rotations(config).items())
    return StoredDecoderWeights(matrices, norms, cosine, sine)


def _store_matrix(decoder: StoredDecoder, matrix: DecoderMatrix, file: WeightFile) -> StoredMatrix:
    name, matrix_format = matrix.name, decoder.format(matrix.name)
    bias = None
    if matrix.biases:
        values = decoder.tensor(f"{name}.bias").numpy()
        bias = file.store(f"{name}.bias", "float32", values.shape, [values])
    if not matrix_format.quantized:
        dtype = "float32" if matrix_format.precision == "fp32" else "float16"
        blocks = (decoder.floats(name, *span).numpy() for span in _spans(matrix.rows))
        weight = file.store(f"{name}.weight", dtype, (matrix.rows, matrix.columns), blocks)
        return StoredMatrix(matrix_format, matrix.rows, matrix.columns, weight, bias=bias)
    if matrix_format.code != "uniform":
        raise ExportError(f"{name} is {matrix_format.code}: MatMulNBits has levels of equal steps only; use int4")
    weight = _store_integers(decoder, matrix, matrix_format, file)
    groups = decoder.groups(name, "scales").numpy()
    scales = file.store(f"{name}.scales", "float16", groups.shape, [groups])
    zeros = None
    if matrix_format.has_zeros:
        packed = pack_halves(decoder.groups(name, "zeros").numpy(), fill=0)
        zeros = file.store(f"{name}.zeros", "uint8", packed.shape, [packed])
    return StoredMatrix(matrix_format, matrix.rows, matrix.columns, weight, scales, zeros, bias)


def _store_integers(
    decoder: StoredDecoder, matrix: DecoderMatrix, matrix_format: MatrixFormat, file: WeightFile
) -> StoredTensor:
    size = matrix_format.group_size
    is_int4 = matrix_format.precision == "int4"

    def blocks() -> Iterator[Array]:
        for first, last in _spans(matrix.rows):
            values = decoder.quantized_rows(matrix.name, first, last).values.numpy()  # (block rows, columns)
            yield pack_halves(values, fill=0) if is_int4 else values

    shape = (matrix.rows, matrix.columns // size, size // 2 if is_int4 else size)
    return file.store(f"{matrix.name}.weight", "uint8", shape, blocks())


def pack_halves(values: Array, fill: int) -> Array:
    """Packs two numbers of four bits into each byte.

    Args:
        values: uint8 (rows, n), each below 16.
        fill: The number in the last high half where n is odd.

    Returns:
        uint8 (rows, ceil(n / 2)): even indices in the low halves, odd ones in the high halves.
    """
    rows, count = values.shape
    even = values if count % 2 == 0 else np.concatenate([values, np.full((rows, 1), fill, np.uint8)], axis=1)
    packed: Array = even[:, 0::2] | even[:, 1::2] << 4
    return packed


def _spans(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, _BLOCK_ROWS):
        yield first, min(first + _BLOCK_ROWS, rows)


def _rotations(config: DecoderConfig) -> dict[str, Array]:
    """Cosines and sines, (positions, head size / 2) each.

    They are computed in float32 throughout, as the reference does (docs/valley2.md, "Decoder").
    """
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    frequencies = 1.0 / config.rope_theta**exponents
    angles = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float32), frequencies)
    return {"cosine": angles.cos().numpy(), "sine": angles.sin().numpy()}
