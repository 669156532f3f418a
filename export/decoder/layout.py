"""What decoder.safetensors and embeddings.safetensors contain (docs/bundle.md, "Decoder files")."""

from __future__ import annotations

import json
from dataclasses import dataclass

from valley2_edge.config import DecoderConfig
from valley2_edge.export.bundle.safetensors_stream import TensorPlan
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.packing import PANEL, panel_count

DECODER_FILE = "decoder/decoder.safetensors"
EMBEDDINGS_FILE = "decoder/embeddings.safetensors"
EMBEDDINGS_TENSOR = "embeddings.weight"
LM_HEAD = "lm_head"
FINAL_NORM = "norm"


@dataclass(frozen=True)
class DecoderMatrix:
    """One matrix of the decoder: several weights of the checkpoint, stacked by rows."""

    name: str
    rows: int
    columns: int
    weights: tuple[str, ...]
    """Tensors of the checkpoint."""
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class DecoderNorm:
    """One RMSNorm weight, (hidden_size,)."""

    name: str
    weight: str
    """Tensor of the checkpoint."""


def decoder_parts(config: DecoderConfig) -> list[DecoderMatrix | DecoderNorm]:
    """Every part of the decoder in the order of computation, which is the order in the file.

    Args:
        config: The decoder's sizes.
    """
    hidden, intermediate = config.hidden_size, config.intermediate_size
    query_rows = config.num_attention_heads * config.head_size
    kv_rows = config.num_key_value_heads * config.head_size
    parts: list[DecoderMatrix | DecoderNorm] = []
    for index in range(config.num_hidden_layers):
        ours, theirs = f"layers.{index}", f"model.layers.{index}"
        projections = [f"{theirs}.self_attn.{letter}_proj" for letter in "qkv"]
        parts += [
            DecoderNorm(f"{ours}.input_norm", f"{theirs}.input_layernorm.weight"),
            DecoderMatrix(
                f"{ours}.attention.qkv",
                query_rows + 2 * kv_rows,
                hidden,
                tuple(f"{name}.weight" for name in projections),
                tuple(f"{name}.bias" for name in projections),
            ),
            DecoderMatrix(f"{ours}.attention.output", hidden, query_rows, (f"{theirs}.self_attn.o_proj.weight",)),
            DecoderNorm(f"{ours}.post_attention_norm", f"{theirs}.post_attention_layernorm.weight"),
            DecoderMatrix(
                f"{ours}.mlp.gate_up",
                2 * intermediate,
                hidden,
                (f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight"),
            ),
            DecoderMatrix(f"{ours}.mlp.down", hidden, intermediate, (f"{theirs}.mlp.down_proj.weight",)),
        ]
    lm_head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    parts.append(DecoderNorm(FINAL_NORM, "model.norm.weight"))
    parts.append(DecoderMatrix(LM_HEAD, config.vocab_size, hidden, (lm_head,)))
    return parts


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


def matrix_tensors(matrix: DecoderMatrix, matrix_format: MatrixFormat) -> list[TensorPlan]:
    """The tensors that one matrix becomes.

    Args:
        matrix: Its name and sizes.
        matrix_format: How it is stored.

    Raises:
        ExportError: Its columns do not divide into whole groups.
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
    """Every tensor of decoder.safetensors, in file order.

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
    """The header strings of decoder.safetensors."""
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
    """The header strings of embeddings.safetensors."""
    return {"format": "valley2-embeddings", "format_version": "1"}
