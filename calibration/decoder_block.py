"""Computes one Qwen2 layer in parts, so that the inputs of each matrix can be seen before the matrix is rounded.

The parts in the order of computation: `rms_norm`, the matrix qkv, `attend`, the matrix output, a sum with the layer's
input, `rms_norm`, the matrix gate_up, `gate`, the matrix down, a sum (docs/valley2.md, "Decoder").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from valley2_edge.calibration.packs import Pack, Span
from valley2_edge.config import DecoderConfig


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Computes RMSNorm.

    Args:
        hidden: (rows, hidden) float32.
        weight: (hidden,) float32.
        epsilon: Added to the mean square.

    Returns:
        (rows, hidden) float32.
    """
    variance = hidden.square().mean(dim=-1, keepdim=True)
    return weight * (hidden * torch.rsqrt(variance + epsilon))


def rotary_table(positions: torch.Tensor, config: DecoderConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the cosines and sines of the rotary embedding, which turns channel i with channel i + head_size / 2.

    Args:
        positions: (rows,) int64.
        config: The decoder's sizes.

    Returns:
        Cosines and sines, each (rows, head_size) float32.
    """
    half = torch.arange(0, config.head_size, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / (config.rope_theta ** (half / config.head_size))  # (head_size / 2,)
    angles = positions.to(torch.float32)[:, None] * frequencies  # (rows, head_size / 2)
    doubled = torch.cat((angles, angles), dim=-1)
    return doubled.cos(), doubled.sin()


def attend(mixed: torch.Tensor, pack: Pack, config: DecoderConfig) -> torch.Tensor:
    """Computes causal attention of every branch to its sample's prefix and to itself.

    Args:
        mixed: The output of the matrix qkv with its biases, (rows, q_rows + 2 * kv_rows) float32.
        pack: Where samples and branches lie.
        config: The decoder's sizes.

    Returns:
        (rows, q_rows) float32.
    """
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_size
    query, key, value = torch.split(mixed, [heads * size, kv_heads * size, kv_heads * size], dim=1)
    cosines, sines = rotary_table(pack.positions().to(mixed.device), config)
    query = _rotate(query.reshape(-1, heads, size), cosines, sines).transpose(0, 1)  # (heads, rows, size)
    key = _rotate(key.reshape(-1, kv_heads, size), cosines, sines).transpose(0, 1)  # (kv_heads, rows, size)
    value = value.reshape(-1, kv_heads, size).transpose(0, 1)  # (kv_heads, rows, size)
    result = torch.empty_like(query)
    for span in pack.spans:
        _attend_span(query, key, value, span, result)
    return result.transpose(0, 1).reshape(-1, heads * size)


def gate(widened: torch.Tensor) -> torch.Tensor:
    """Computes silu(gate) * up.

    Args:
        widened: (rows, 2 * intermediate) float32, the gate first.

    Returns:
        (rows, intermediate) float32.
    """
    first, second = widened.chunk(2, dim=1)
    return F.silu(first) * second


def _attend_span(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, span: Span, result: torch.Tensor) -> None:
    """Writes the rows of one sample into `result`, (heads, rows, size)."""
    start, stop = span.start, span.start + span.prefix
    prefix_keys, prefix_values = key[:, start:stop], value[:, start:stop]
    if span.prefix:
        result[:, start:stop] = _softmax_attention(query[:, start:stop], prefix_keys, prefix_values)
    for rows in span.branches:
        start, stop = stop, stop + rows
        result[:, start:stop] = _softmax_attention(
            query[:, start:stop],
            torch.cat((prefix_keys, key[:, start:stop]), dim=1),
            torch.cat((prefix_values, value[:, start:stop]), dim=1),
        )


def _softmax_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of the last n rows of a sequence, (heads, n, size), to keys (kv_heads, n + earlier, size)."""
    rows, total = query.shape[1], key.shape[1]
    mask = None
    if rows != total:
        mask = torch.ones(rows, total, dtype=torch.bool, device=query.device).tril(total - rows)
    return F.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )[0]


def _rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Applies the rotary embedding to (rows, heads, size)."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return states * cosines[:, None] + turned * sines[:, None]
