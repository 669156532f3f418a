"""Runs a bundle's decoder in torch: its dequantised weights in float32 arithmetic, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import NumericError
from valley2_edge.export.decoder.parts import FINAL_NORM, LM_HEAD
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.quantize.packing import panel_count

_LM_HEAD_PANELS = 64  # panels of the output matrix that are dequantised at a time


def reference_logits(
    decoder: StoredDecoder,
    embeddings: torch.Tensor,
    logit_rows: int,
    on_layer: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Logits of a prompt's last positions, computed by transformers' Qwen2 layers.

    Args:
        decoder: The bundle's decoder.
        embeddings: The prompt, (length, hidden_size) float32, with text and picture tokens.
        logit_rows: Number of last positions whose logits are computed.
        on_layer: Called with the number of finished layers and the number of all layers.

    Returns:
        (logit_rows, vocab_size) float32.

    Raises:
        NumericError: A layer's output is not finite; the message names the layer.
    """
    config = _qwen2_config(decoder.config)
    length = embeddings.shape[0]
    positions = torch.arange(length)[None]  # (1, length)
    # Additive causal mask, (1, 1, length, length).
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    hidden = embeddings[None]  # (1, length, hidden_size)
    with torch.inference_mode():
        rotary = Qwen2RotaryEmbedding(config)(hidden, positions)
        for index in range(config.num_hidden_layers):
            layer = _load_layer(decoder, config, index)
            output = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
            hidden = output[0] if isinstance(output, tuple) else output
            if not torch.isfinite(hidden).all():
                raise NumericError(f"layer {index} of the reference decoder computed a NaN or an infinity")
            if on_layer is not None:
                on_layer(index + 1, config.num_hidden_layers)
        norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        norm.load_state_dict({"weight": decoder.tensor(FINAL_NORM)})
        last = norm(hidden[0, -logit_rows:])  # (logit_rows, hidden_size)
        panels = panel_count(decoder.rows(LM_HEAD))
        blocks = [
            last @ decoder.matrix(LM_HEAD, first, first + _LM_HEAD_PANELS).T
            for first in range(0, panels, _LM_HEAD_PANELS)
        ]
    return torch.cat(blocks, dim=1)


def _qwen2_config(config: DecoderConfig) -> Qwen2Config:
    qwen2 = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    qwen2._attn_implementation = "eager"  # takes an additive mask as it is
    return qwen2


def _load_layer(decoder: StoredDecoder, config: Qwen2Config, index: int) -> Qwen2DecoderLayer:
    ours = f"layers.{index}"
    kv_rows = decoder.config.num_key_value_heads * decoder.config.head_size
    sizes = [decoder.config.hidden_size, kv_rows, kv_rows]
    weights = torch.split(decoder.matrix(f"{ours}.attention.qkv"), sizes)
    biases = torch.split(decoder.tensor(f"{ours}.attention.qkv.bias"), sizes)
    gate, up = torch.split(decoder.matrix(f"{ours}.mlp.gate_up"), decoder.config.intermediate_size)
    state = {
        "self_attn.o_proj.weight": decoder.matrix(f"{ours}.attention.output"),
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": decoder.matrix(f"{ours}.mlp.down"),
        "input_layernorm.weight": decoder.tensor(f"{ours}.input_norm"),
        "post_attention_layernorm.weight": decoder.tensor(f"{ours}.post_attention_norm"),
    }
    for letter, weight, bias in zip("qkv", weights, biases, strict=True):
        state[f"self_attn.{letter}_proj.weight"] = weight
        state[f"self_attn.{letter}_proj.bias"] = bias
    with torch.device("meta"):  # takes no memory for weights that are replaced at once
        layer = Qwen2DecoderLayer(config, index)
    layer.load_state_dict(state, assign=True)
    return layer.eval()
