"""The matrices and norms of the decoder, in the order of its computation."""

from __future__ import annotations

from dataclasses import dataclass

from valley2_edge.config import DecoderConfig
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS, OUTPUT_WEIGHT

LM_HEAD = "lm_head"
"""Name of the output matrix in a bundle."""
FINAL_NORM = "norm"
"""Name of the norm before the output matrix in a bundle."""


@dataclass(frozen=True)
class DecoderMatrix:
    """One matrix of the decoder: several weights of the checkpoint, stacked by rows."""

    name: str
    rows: int
    columns: int
    weights: tuple[str, ...]
    """The tensors of the checkpoint that are stacked."""
    biases: tuple[str, ...] = ()
    """The tensors of their biases; empty for a matrix without a bias."""


@dataclass(frozen=True)
class DecoderNorm:
    """One RMSNorm weight, (hidden_size,)."""

    name: str
    weight: str
    """The tensor of the checkpoint."""


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
    lm_head = EMBEDDINGS if config.tie_word_embeddings else OUTPUT_WEIGHT
    parts.append(DecoderNorm(FINAL_NORM, "model.norm.weight"))
    parts.append(DecoderMatrix(LM_HEAD, config.vocab_size, hidden, (lm_head,)))
    return parts
