"""The Qwen2.5 decoder in torch, over many packed dialogues at once (docs/valley2.md, "Decoder")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from valley2_edge.config import DecoderConfig
from valley2_nano.layers import Linear, RmsNorm, gather_once, linear, rotate, scatter_once


@dataclass(frozen=True)
class Span:
    """One dialogue's rows in the packed sequence: a shared prefix, then its turns, each of which sees the prefix."""

    start: int
    prefix: int
    turns: tuple[int, ...]
    """Rows of each turn."""

    @property
    def rows(self) -> int:
        """All rows of the dialogue."""
        return self.prefix + sum(self.turns)


class _Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, kv_size = config.hidden_size, config.num_key_value_heads * config.head_size
        self.q_proj, self.k_proj = Linear(size, size), Linear(size, kv_size)
        self.v_proj, self.o_proj = Linear(size, kv_size), Linear(size, size, bias=False)


class _Mlp(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, width = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = Linear(size, width, bias=False), Linear(size, width, bias=False)
        self.down_proj = Linear(width, size, bias=False)


class DecoderLayer(nn.Module):
    """One layer, in the three steps before, in and after the attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn, self.mlp = _Attention(config), _Mlp(config)
        self.sizes = config.num_attention_heads, config.num_key_value_heads, config.head_size

    def forward(self, value: Tensor, rotation: tuple[Tensor, Tensor], layout: AttentionLayout, kind: torch.dtype) -> Tensor:
        """(rows, size) fp32 to the same."""
        joined = self.before(value, rotation, kind)
        return self.after(value, attend(joined, layout, self.sizes), kind)

    def before(self, value: Tensor, rotation: tuple[Tensor, Tensor], kind: torch.dtype) -> Tensor:
        """(rows, size) to rotated queries, rotated keys, and values: (rows, heads + 2 * kv heads, head size)."""
        heads, kv_heads, head_size = self.sizes
        parts = (self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        joined = linear(self.input_layernorm(value, kind), weight, bias).view(value.shape[0], -1, head_size)
        turned, values = joined.split([heads + kv_heads, kv_heads], 1)
        return torch.cat([rotate(turned, *rotation), values], 1)

    def after(self, value: Tensor, mixed: Tensor, kind: torch.dtype) -> Tensor:
        """Adds the attention's result (rows, size) and the MLP to the residual (rows, size)."""
        value = value + self.self_attn.o_proj(mixed)
        norm = self.post_attention_layernorm(value, kind)
        gate, up = linear(norm, torch.cat([self.mlp.gate_proj.weight, self.mlp.up_proj.weight])).chunk(2, -1)
        return value + self.mlp.down_proj(functional.silu(gate) * up)


@dataclass(frozen=True)
class AttentionLayout:
    """Where the rows lie while attention runs: each dialogue's turns are padded to the longest of them."""

    spans: Sequence[Span]
    heights: list[int]
    """Padded rows of each dialogue."""
    places: Tensor
    """(rows,) int64: the padded row of each row."""

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device) -> AttentionLayout:
        """Plans the padding of a packed sequence."""
        heights, places, start = [], [], 0
        for span in spans:
            longest = max(span.turns)
            places.append(np.arange(start, start + span.prefix))
            start += span.prefix
            for rows in span.turns:
                places.append(np.arange(start, start + rows))
                start += longest
            heights.append(span.prefix + longest * len(span.turns))
        return cls(spans, heights, torch.from_numpy(np.concatenate(places)).to(device))


def attend(joined: Tensor, layout: AttentionLayout, sizes: tuple[int, int, int]) -> Tensor:
    """Attention of every dialogue: a row sees itself and what precedes it in the prefix and in its own turn.

    Args:
        joined: Queries, keys, values: (rows, heads + 2 * kv heads, head size).
        layout: Of the rows.
        sizes: Heads, kv heads, head size.

    Returns:
        (rows, heads * head size).
    """
    padded = scatter_once(joined.flatten(1), layout.places, sum(layout.heights))
    mixed = []
    for span, part in zip(layout.spans, padded.split(layout.heights), strict=True):
        prefix, turns = part.split([span.prefix, part.shape[0] - span.prefix])
        mixed += _attend_span(prefix[None], turns.unflatten(0, (len(span.turns), -1)), sizes)
    return gather_once(torch.cat(mixed), layout.places)


def _attend_span(prefix: Tensor, turns: Tensor, sizes: tuple[int, int, int]) -> list[Tensor]:
    """One dialogue's prefix (1, rows, channels) and turns (turns, rows, channels); results (rows, heads * head size)."""
    query, key, values = _heads(prefix, sizes)
    own = _causal(query @ key.transpose(-1, -2))
    mixed = [_flat(torch.softmax(own, -1) @ values, prefix)]
    count, length = turns.shape[:2]
    turn_query, turn_key, turn_values = _heads(turns, sizes)
    # The prefix's keys are the same for all turns: one product of all their queries
    scores = (turn_query.flatten(1, 2) @ key[:, 0].transpose(-1, -2)).unflatten(1, (count, -1))
    own = _causal(turn_query @ turn_key.transpose(-1, -2))
    shared, own = torch.softmax(torch.cat([scores, own], -1), -1).split([key.shape[2], length], -1)
    result = (shared.flatten(1, 2) @ values[:, 0]).unflatten(1, (count, -1)) + own @ turn_values
    return [*mixed, _flat(result, turns)]


def _heads(joined: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (kv heads, parts, heads of a group * rows, head size), keys and values (kv heads, parts, rows, ...)."""
    heads, kv_heads, head_size = sizes
    parts, rows, _ = joined.shape
    query, key, values = joined.unflatten(-1, (-1, head_size)).split([heads, kv_heads, kv_heads], 2)
    grouped = query.unflatten(2, (kv_heads, -1)).permute(2, 0, 3, 1, 4) * head_size**-0.5
    grouped = grouped.reshape(kv_heads, parts, -1, head_size)
    return grouped, key.permute(2, 0, 1, 3).contiguous(), values.permute(2, 0, 1, 3).contiguous()


def _causal(scores: Tensor) -> Tensor:
    """Hides later keys: (kv heads, parts, heads of a group * rows, rows)."""
    rows = scores.shape[-1]
    mask = torch.full((rows, rows), float("-inf"), dtype=scores.dtype, device=scores.device).triu(1)
    return (scores.unflatten(2, (-1, rows)) + mask).flatten(2, 3)


def _flat(mixed: Tensor, like: Tensor) -> Tensor:
    """(kv heads, parts, heads of a group * rows, head size) to (parts * rows, heads * head size)."""
    rows = like.shape[1]
    return mixed.unflatten(2, (-1, rows)).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


class Decoder(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        half = config.head_size // 2
        frequencies = 1.0 / config.rope_theta ** (torch.arange(half, dtype=torch.float32) / half)
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def run(self, value: Tensor, positions: Tensor, layout: AttentionLayout, kind: torch.dtype) -> Tensor:
        """Input embeddings (rows, size) fp32 and positions (rows,) to hidden states (rows, size) before the norm."""
        angles = (positions.float()[:, None] * self.frequencies)[:, None]  # (rows, 1, head size / 2)
        rotation = angles.cos(), angles.sin()
        for layer in self.layers:
            value = layer(value, rotation, layout, kind)
        return value
