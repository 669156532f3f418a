"""Writes the decoder of a checkpoint into a bundle, one matrix in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from valley2_edge.bundle import MatrixError
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.export.bundle.safetensors_stream import SafetensorsStream, dtype_name
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS
from valley2_edge.export.control import Progress
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layers import Tensors, row_blocks
from valley2_edge.export.decoder.layout import (
    DECODER_FILE,
    EMBEDDINGS_FILE,
    EMBEDDINGS_TENSOR,
    decoder_metadata,
    decoder_plan,
    embeddings_metadata,
    embeddings_plan,
)
from valley2_edge.export.decoder.parts import DecoderMatrix, DecoderNorm, decoder_parts
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.nf4 import quantize_rows_nf4
from valley2_edge.quantize.nf4_codes import NF4_ZERO
from valley2_edge.quantize.packing import pack_floats, pack_groups, pack_int4, pack_int8
from valley2_edge.quantize.rtn import INT4_ZERO, QuantizedRows, dequantize_rows, quantize_rows

_BLOCK_ROWS = 256  # whole panels; a block of float32 stays near the caches
_EMBEDDING_ROWS = 4096


class TensorSource(Tensors, Protocol):
    """Reads tensors and their dtypes by name, as a checkpoint does."""

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored."""


class RoundedSource(TensorSource, Protocol):
    """Reads a decoder whose layers are rounded already."""

    parts: list[DecoderMatrix | DecoderNorm]
    """The parts of the decoder in file order, with the names of this source's tensors."""

    def quantized_rows(self, matrix: DecoderMatrix) -> QuantizedRows | None:
        """The integers of a matrix, or None where this source has floats."""


def export_decoder(
    source: TensorSource,
    config: DecoderConfig,
    directory: Path,
    formats: DecoderFormats,
    progress: Progress | None = None,
) -> list[MatrixError]:
    """Writes decoder/decoder.safetensors.

    Args:
        source: Reads the weights.
        config: The decoder's sizes.
        directory: The bundle that is being made.
        formats: How the matrices are stored.
        progress: Called after every matrix.

    Returns:
        What rounding cost each matrix, in file order.

    Raises:
        CheckpointError: A tensor is missing or misshapen.
        ExportError: A matrix cannot be stored in its format; the message names it.
        OSError: The file cannot be written.
    """
    path = directory / DECODER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = decoder_parts(config)
    total = sum(isinstance(part, DecoderMatrix) for part in parts)
    errors: list[MatrixError] = []
    plan = decoder_plan(config, formats)
    with SafetensorsStream(path, plan, decoder_metadata(config, formats)) as stream:
        for part in parts:
            if isinstance(part, DecoderNorm):
                _write_norm(stream, source, part, config)
                continue
            errors.append(_write_matrix(stream, source, part, formats.of(part.name)))
            if progress is not None:
                progress("decoder", len(errors), total)
    return errors


def export_rounded_decoder(
    source: RoundedSource,
    config: DecoderConfig,
    directory: Path,
    formats: DecoderFormats,
    progress: Progress | None = None,
    reference: TensorSource | None = None,
) -> list[MatrixError]:
    """Writes decoder/decoder.safetensors from a decoder that is rounded already.

    Args:
        source: Reads the rounded decoder; matrices that it has as floats are stored as `formats` says.
        config: The decoder's sizes.
        directory: The bundle that is being made.
        formats: How the matrices are stored.
        progress: Called after every matrix.
        reference: The unrounded decoder, which the rounded one is compared with. None means that nothing is measured.

    Returns:
        What rounding cost each matrix, in file order; empty without a reference.

    Raises:
        CheckpointError: A tensor is missing or misshapen.
        ExportError: A matrix cannot be stored in its format; the message names it.
        OSError: The file cannot be written.
    """
    path = directory / DECODER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(isinstance(part, DecoderMatrix) for part in source.parts)
    errors: list[MatrixError] = []
    done = 0
    plan = decoder_plan(config, formats)
    with SafetensorsStream(path, plan, decoder_metadata(config, formats)) as stream:
        for part, original in zip(source.parts, decoder_parts(config), strict=True):
            if isinstance(part, DecoderNorm):
                _write_norm(stream, source, part, config)
                continue
            rows = source.quantized_rows(part)
            if rows is None:
                error = _write_matrix(stream, source, part, formats.of(part.name))
            else:
                exact = None
                if reference is not None and isinstance(original, DecoderMatrix):
                    exact = row_blocks(reference, original, _BLOCK_ROWS)
                error = _write_rows(stream, source, part, formats.of(part.name), rows, exact)
            if reference is not None:
                errors.append(error)
            done += 1
            if progress is not None:
                progress("decoder", done, total)
    return errors


def export_embeddings(
    source: TensorSource, config: DecoderConfig, directory: Path, progress: Progress | None = None
) -> None:
    """Writes decoder/embeddings.safetensors: the embedding table in the checkpoint's own dtype, unchanged.

    Args:
        source: Reads the weights.
        config: The decoder's sizes.
        directory: The bundle that is being made.
        progress: Called after every block of rows.

    Raises:
        CheckpointError: The table is missing or misshapen.
        ExportError: The table's dtype is not supported, or it holds a NaN or an infinity.
        OSError: The file cannot be written.
    """
    path = directory / EMBEDDINGS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    name = EMBEDDINGS
    _check_shape(source, (name,), (config.vocab_size, config.hidden_size), EMBEDDINGS_TENSOR)

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, config.vocab_size, _EMBEDDING_ROWS):
            stop = min(start + _EMBEDDING_ROWS, config.vocab_size)
            yield _finite(source.rows(name, start, stop), EMBEDDINGS_TENSOR)
            if progress is not None:
                progress("embeddings", stop, config.vocab_size)

    plan = embeddings_plan(config, dtype_name(source.dtype(name)))
    with SafetensorsStream(path, plan, embeddings_metadata()) as stream:
        stream.write(EMBEDDINGS_TENSOR, blocks())


def _write_norm(stream: SafetensorsStream, source: TensorSource, norm: DecoderNorm, config: DecoderConfig) -> None:
    _check_shape(source, (norm.weight,), (config.hidden_size,), norm.name)
    stream.write(norm.name, [_finite(source.tensor(norm.weight).to(torch.float32), norm.name)])


def _write_matrix(
    stream: SafetensorsStream, source: TensorSource, matrix: DecoderMatrix, matrix_format: MatrixFormat
) -> MatrixError:
    _check_shape(source, matrix.weights, (matrix.rows, matrix.columns), matrix.name)
    packer = _MatrixPacker(matrix.name, matrix_format)
    stream.write(f"{matrix.name}.weight", map(packer.panels, row_blocks(source, matrix, _BLOCK_ROWS)))
    return _finish_matrix(stream, source, matrix, matrix_format, packer)


def _write_rows(
    stream: SafetensorsStream,
    source: TensorSource,
    matrix: DecoderMatrix,
    matrix_format: MatrixFormat,
    rows: QuantizedRows,
    exact: Iterator[torch.Tensor] | None,
) -> MatrixError:
    """Writes a matrix that is rounded already; `exact` has blocks of the unrounded rows, to measure the error."""
    packer = _MatrixPacker(matrix.name, matrix_format)

    def panels() -> Iterator[torch.Tensor]:
        for first in range(0, matrix.rows, _BLOCK_ROWS):
            span = slice(first, first + _BLOCK_ROWS)
            zeros = None if rows.zeros is None else rows.zeros[span]
            block = QuantizedRows(rows.values[span], rows.scales[span], zeros)
            yield packer.rounded_panels(block, None if exact is None else next(exact))

    stream.write(f"{matrix.name}.weight", panels())
    return _finish_matrix(stream, source, matrix, matrix_format, packer)


def _finish_matrix(
    stream: SafetensorsStream,
    source: TensorSource,
    matrix: DecoderMatrix,
    matrix_format: MatrixFormat,
    packer: _MatrixPacker,
) -> MatrixError:
    if matrix_format.quantized:
        stream.write(f"{matrix.name}.scales", packer.scales)
    if matrix_format.has_zeros:
        stream.write(f"{matrix.name}.zeros", packer.zeros)
    if matrix.biases:
        _check_shape(source, matrix.biases, (matrix.rows,), f"{matrix.name}.bias")
        biases = [_finite(source.tensor(name).to(torch.float32), name) for name in matrix.biases]
        stream.write(f"{matrix.name}.bias", biases)
    return MatrixError(
        name=matrix.name, precision=matrix_format.precision, relative_error=float(f"{packer.relative_error:.6g}")
    )


class _MatrixPacker:
    """Packs a matrix block by block, and keeps the scales, which are small, until the weights are written."""

    def __init__(self, name: str, matrix_format: MatrixFormat) -> None:
        self._name = name
        self._format = matrix_format
        self._squared_error = 0.0
        self._squared_norm = 0.0
        self.scales: list[torch.Tensor] = []
        self.zeros: list[torch.Tensor] = []

    @property
    def relative_error(self) -> float:
        """Norm of the weight difference over norm of the weight; 0 for a matrix of zeros."""
        return math.sqrt(self._squared_error / self._squared_norm) if self._squared_norm else 0.0

    def panels(self, block: torch.Tensor) -> torch.Tensor:
        """Rounds and packs the next rows, (block rows, columns) float32; all blocks but the last fill whole panels."""
        if self._format.quantized:
            quantize = quantize_rows_nf4 if self._format.code == "nf4" else quantize_rows
            rows = quantize(block, self._format, self._name)
            self._record(block, dequantize_rows(rows, self._format))
            return self._pack(rows)
        _finite(block, self._name)
        stored = block.to(torch.float16 if self._format.precision == "fp16" else torch.float32)
        if torch.isinf(stored).any():
            raise ExportError(f"{self._name} has weights too large for fp16: choose fp32 for it")
        self._record(block, stored.to(torch.float32))
        return pack_floats(stored)

    def rounded_panels(self, rows: QuantizedRows, exact: torch.Tensor | None) -> torch.Tensor:
        """Packs the next rows, which are rounded already; the error is measured where the exact rows are given."""
        if exact is not None:
            self._record(exact, dequantize_rows(rows, self._format))
        return self._pack(rows)

    def _pack(self, rows: QuantizedRows) -> torch.Tensor:
        self.scales.append(pack_groups(rows.scales))
        if rows.zeros is not None:
            self.zeros.append(pack_groups(rows.zeros))
        if self._format.precision == "int8":
            return pack_int8(rows.values)
        if rows.zeros is not None:
            return pack_int4(rows.values, padding=0)
        return pack_int4(rows.values, padding=NF4_ZERO if self._format.code == "nf4" else INT4_ZERO)

    def _record(self, exact: torch.Tensor, stored: torch.Tensor) -> None:
        difference = (stored - exact).reshape(-1)
        exact = exact.reshape(-1)
        self._squared_error += float(torch.dot(difference, difference))
        self._squared_norm += float(torch.dot(exact, exact))


def _check_shape(source: TensorSource, names: tuple[str, ...], shape: tuple[int, ...], name: str) -> None:
    shapes = [source.shape(part) for part in names]
    stacked = (sum(part[0] for part in shapes), *shapes[0][1:])
    if stacked != shape or any(part[1:] != shape[1:] for part in shapes):
        raise CheckpointError(f"{', '.join(names)} make {name} of shape {list(stacked)}; {list(shape)} is expected")


def _finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if not torch.isfinite(tensor).all():
        raise ExportError(f"{name} holds a NaN or an infinity: the checkpoint is damaged")
    return tensor
