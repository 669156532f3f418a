"""Turns the native decoder of a bundle that is being made into ONNX graphs with the same integers and scales."""

from __future__ import annotations

import json
from pathlib import Path

from valley2_edge.bundle import (
    ONNX_EMBEDDINGS_FILE,
    ONNX_GENAI_FILE,
    ONNX_WEIGHTS_FILE,
    onnx_decoder_file,
    onnx_head_file,
)
from valley2_edge.config import ModelConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.control import Progress, no_progress
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layout import EMBEDDINGS_FILE, EMBEDDINGS_TENSOR
from valley2_edge.export.decoder.parts import DecoderMatrix, decoder_parts
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder_onnx.genai_config import genai_config
from valley2_edge.export.decoder_onnx.graph import write_decoder_graph, write_embeddings_graph, write_head_graph
from valley2_edge.export.decoder_onnx.weights import store_decoder
from valley2_edge.export.onnx.graph import PAGE_BYTES
from valley2_edge.export.onnx.weights import StoredTensor, WeightFile
from valley2_edge.precisions import OnnxArithmetic
from valley2_edge.quantize.matrix_format import MatrixFormat

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_HEAD_SIZE_STEP = 16
"""The head size must be a multiple of this: GroupQueryAttention rotates whole vector registers."""


def check_onnx_formats(config: ModelConfig, formats: DecoderFormats) -> None:
    """Refuses what the graphs cannot hold before any work is done.

    Args:
        config: The architecture.
        formats: How the decoder's matrices are to be stored.

    Raises:
        ExportError: A matrix is to be stored in nf4, or the heads have a size that GroupQueryAttention does not take.
    """
    if "nf4" in (formats.layers.code, formats.lm_head.code):
        raise ExportError("--decoder-engine onnx does not go with --method nf4: MatMulNBits has levels of equal steps")
    if config.decoder.head_size % _HEAD_SIZE_STEP:
        raise ExportError(
            f"--decoder-engine onnx needs heads of a multiple of {_HEAD_SIZE_STEP} channels, not "
            f"{config.decoder.head_size}"
        )


def write_onnx_decoder(directory: Path, config: ModelConfig, progress: Progress | None = None) -> list[str]:
    """Writes the graphs and their weights beside the native decoder, which is only read.

    There is one graph of the layers and one of the output matrix for each arithmetic; all refer to one file of weights,
    and the embeddings' graph to the bundle's own table.

    Args:
        directory: The bundle, with decoder/decoder.safetensors and decoder/embeddings.safetensors.
        config: The architecture.
        progress: Called with the stage "onnx decoder", the number of finished parts and the number of all parts.

    Returns:
        The files of the ONNX decoder, relative to the bundle, among them the embedding table.

    Raises:
        ExportError: A matrix cannot be expressed.
        OSError: A file cannot be written.
    """
    decoder = StoredDecoder(directory)
    with WeightFile(directory / ONNX_WEIGHTS_FILE) as file:
        weights = store_decoder(decoder, file, progress or no_progress)
    files = [ONNX_WEIGHTS_FILE, EMBEDDINGS_FILE, ONNX_EMBEDDINGS_FILE, ONNX_GENAI_FILE]
    for arithmetic in arithmetics([matrix.format for matrix in weights.matrices.values()]):
        layers, head = onnx_decoder_file(arithmetic), onnx_head_file(arithmetic)
        write_decoder_graph(directory / layers, decoder.config, weights, arithmetic)
        write_head_graph(directory / head, decoder.config, weights, arithmetic)
        files += [layers, head]
    write_embeddings_graph(directory / ONNX_EMBEDDINGS_FILE, decoder.config, embedding_table(directory))
    content = genai_config(config, arithmetics([matrix.format for matrix in weights.matrices.values()])[-1])
    (directory / ONNX_GENAI_FILE).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return sorted(files)


def arithmetics(formats: list[MatrixFormat]) -> list[OnnxArithmetic]:
    """The arithmetics that a decoder gets graphs for: int8 only where a matrix is stored as integers.

    Args:
        formats: How the decoder's matrices are stored.
    """
    return ["fp32", "fp16", "int8"] if any(part.quantized for part in formats) else ["fp32", "fp16"]


def onnx_decoder_bytes(config: ModelConfig, formats: DecoderFormats) -> int:
    """Upper bound of the disk space of the graphs and their weights, without the embedding table, in bytes.

    Args:
        config: The architecture.
        formats: How the decoder's matrices are stored.
    """
    parts = decoder_parts(config.decoder)
    weights = sum(_matrix_bytes(part, formats.of(part.name)) for part in parts if isinstance(part, DecoderMatrix))
    rotations = 4 * config.decoder.max_position_embeddings * config.decoder.head_size
    norms = 4 * config.decoder.hidden_size * len(parts)
    return weights + rotations + norms + 4 * PAGE_BYTES * len(parts) + 3 * (1 << 20)


def embedding_table(directory: Path) -> StoredTensor:
    """Finds the embedding table in decoder/embeddings.safetensors.

    Args:
        directory: The bundle.

    Returns:
        Where the table lies.

    Raises:
        ExportError: A graph cannot hold the table's dtype.
        OSError: The file cannot be read.
    """
    path = directory / EMBEDDINGS_FILE
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(header_bytes))[EMBEDDINGS_TENSOR]
    if entry["dtype"] not in _DTYPES:
        raise ExportError(f"the embedding table is {entry['dtype']}: a graph takes {', '.join(_DTYPES)}")
    return StoredTensor(
        path.name, 8 + header_bytes + entry["data_offsets"][0], _DTYPES[entry["dtype"]], tuple(entry["shape"])
    )


def _matrix_bytes(matrix: DecoderMatrix, matrix_format: MatrixFormat) -> int:
    size = matrix.rows * matrix.columns * matrix_format.bits // 8 + (4 * matrix.rows if matrix.biases else 0)
    if matrix_format.quantized:
        groups = matrix.columns // matrix_format.group_size
        size += matrix.rows * (2 * groups + (-(-groups // 2) if matrix_format.has_zeros else 0))
    return size
