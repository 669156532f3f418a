"""Plans the tensors of decoder.safetensors and embeddings.safetensors (docs/bundle.md, "Decoder files")."""

from __future__ import annotations

import json

from valley2_edge.config import DecoderConfig
from valley2_edge.export.bundle.safetensors_stream import TensorPlan
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.parts import DecoderMatrix, DecoderNorm, decoder_parts
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.packing import PANEL, panel_count

DECODER_FILE = "decoder/decoder.safetensors"
EMBEDDINGS_FILE = "decoder/embeddings.safetensors"
EMBEDDINGS_TENSOR = "embeddings.weight"


def matrix_tensors(matrix: DecoderMatrix, matrix_format: MatrixFormat) -> list[TensorPlan]:
    """The tensors that one matrix becomes.

    Args:
        matrix: The matrix's name and sizes.
        matrix_format: How the matrix is stored.

    Raises:
        ExportError: The columns do not divide into whole groups.
    """
    matrix_format.check_columns(matrix.name, matrix.columns)
    panels, columns = panel_count(matrix.rows), matrix.columns
    groups = (panels, columns // matrix_format.group_size, PANEL)
    weight = f"{matrix.name}.weight"
    if matrix_format.precision == "fp32":
        plan = [TensorPlan(weight, "F32", (panels, columns, PANEL))]
    elif matrix_format.precision == "fp16":
        plan = [TensorPlan(weight, "F16", (panels, columns, PANEL))]
    else:
        per_word = 8 if matrix_format.precision == "int4" else 4
        plan = [
            TensorPlan(weight, "U8", (panels, columns // per_word, PANEL, 4)),
            TensorPlan(f"{matrix.name}.scales", "F16", groups),
        ]
        if matrix_format.has_zeros:
            plan.append(TensorPlan(f"{matrix.name}.zeros", "U8", groups))
    if matrix.biases:
        plan.append(TensorPlan(f"{matrix.name}.bias", "F32", (matrix.rows,)))
    return plan


def decoder_plan(config: DecoderConfig, formats: DecoderFormats) -> list[TensorPlan]:
    """The tensors of decoder.safetensors, in file order.

    Args:
        config: The decoder's sizes.
        formats: How the matrices are stored.

    Raises:
        ExportError: A matrix does not divide into whole groups.
    """
    plan: list[TensorPlan] = []
    for part in decoder_parts(config):
        if isinstance(part, DecoderNorm):
            plan.append(TensorPlan(part.name, "F32", (config.hidden_size,)))
        else:
            plan += matrix_tensors(part, formats.of(part.name))
    return plan


def decoder_metadata(config: DecoderConfig, formats: DecoderFormats) -> dict[str, str]:
    """The strings in the header of decoder.safetensors.

    Args:
        config: The decoder's sizes.
        formats: How the matrices are stored.
    """
    matrices: dict[str, dict[str, object]] = {}
    for part in decoder_parts(config):
        if isinstance(part, DecoderMatrix):
            matrix_format = formats.of(part.name)
            matrices[part.name] = {
                "precision": matrix_format.precision,
                "rows": part.rows,
                "columns": part.columns,
                "group_size": matrix_format.group_size if matrix_format.quantized else 0,
                "symmetric": matrix_format.is_symmetric,
            }
            if matrix_format.code != "uniform":
                matrices[part.name]["code"] = matrix_format.code
    return {
        "format": "valley2-decoder",
        "format_version": "1",
        "config": json.dumps({**config.model_dump(), "head_size": config.head_size}),
        "matrices": json.dumps(matrices),
    }


def embeddings_plan(config: DecoderConfig, dtype: str) -> list[TensorPlan]:
    """The tensor of embeddings.safetensors.

    Args:
        config: The decoder's sizes.
        dtype: safetensors name of the checkpoint's own dtype.
    """
    return [TensorPlan(EMBEDDINGS_TENSOR, dtype, (config.vocab_size, config.hidden_size))]


def embeddings_metadata() -> dict[str, str]:
    """The strings in the header of embeddings.safetensors."""
    return {"format": "valley2-embeddings", "format_version": "1"}
