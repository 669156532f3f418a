"""The Qwen2.5 decoder in torch, over many packed dialogues at once (docs/valley2.md, "Decoder")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from valley2_edge.config import DecoderConfig
from valley2_nano.layers import Linear, RmsNorm, gather_once, linear, rotate, scatter_once

PREFIX_BUCKET = 32
TURN_BUCKET = 16
HIDDEN = -1e9
"""A score that leaves nothing after the softmax."""


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

    def forward(
        self,
        value: Tensor,
        rotation: tuple[Tensor, Tensor],
        layout: AttentionLayout,
        kind: torch.dtype,
        kept: Tensor | None = None,
    ) -> Tensor:
        """(rows, size) fp32 to the same, or to the kept rows (n,) of it alone."""
        mixed = attend(self.before(value, rotation, kind), layout, self.sizes)
        if kept is not None:
            value, mixed = value.index_select(0, kept), mixed.index_select(0, kept)
        return self.after(value, mixed, kind)

    def before(self, value: Tensor, rotation: tuple[Tensor, Tensor], kind: torch.dtype) -> Tensor:
        """(rows, size) to rotated queries, rotated keys, and values: (rows, heads + 2 * kv heads, head size)."""
        heads, kv_heads, head_size = self.sizes
        parts = (self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        joined = linear(self.input_layernorm(value, kind), weight, bias).view(value.shape[0], -1, head_size)
        turned, values = torch.split(joined, [heads + kv_heads, kv_heads], 1)
        return torch.cat([rotate(turned, *rotation), values], 1)

    def after(self, value: Tensor, mixed: Tensor, kind: torch.dtype) -> Tensor:
        """Adds the attention's result (rows, size) and the MLP to the residual (rows, size)."""
        value = value + self.self_attn.o_proj(mixed)
        norm = self.post_attention_layernorm(value, kind)
        gate, up = linear(norm, torch.cat([self.mlp.gate_proj.weight, self.mlp.up_proj.weight])).chunk(2, -1)
        narrow: Tensor = self.mlp.down_proj(functional.silu(gate) * up)
        return value + narrow


@dataclass(frozen=True)
class AttentionLayout:
    """Places of the rows while attention runs: prefixes and turns are padded to a few lengths.

    The kernels of the matrix products are made anew for every shape, which would take a fifth of the time.
    """

    spans: Sequence[Span]
    sizes: list[tuple[int, int]]
    """(padded rows of the prefix, padded rows of all turns) of each dialogue, in order."""
    places: Tensor
    """(rows,) int64: the padded row of each row; those beyond the dialogues' are padding themselves."""
    padding: int
    """Rows beyond the dialogues'."""

    @property
    def height(self) -> int:
        """All padded rows."""
        return sum(map(sum, self.sizes)) + self.padding

    @classmethod
    def of(cls, spans: Sequence[Span], rows: int, device: torch.device) -> AttentionLayout:
        """Plans the padding of a packed sequence of so many rows."""
        sizes, places, start = [], [], 0
        for span in spans:
            longest = _raised(max(span.turns), TURN_BUCKET)
            prefix = _raised(span.prefix, PREFIX_BUCKET)
            places.append(np.arange(start, start + span.prefix))
            start += prefix
            for turn in span.turns:
                places.append(np.arange(start, start + turn))
                start += longest
            sizes.append((prefix, longest * len(span.turns)))
        padding = rows - sum(map(len, places))
        places.append(np.arange(start, start + padding))
        return cls(spans, sizes, torch.from_numpy(np.concatenate(places)).to(device), padding)


def _raised(count: int, bucket: int) -> int:
    return -(-count // bucket) * bucket


def attend(joined: Tensor, layout: AttentionLayout, sizes: tuple[int, int, int]) -> Tensor:
    """Attention of every dialogue: a row sees itself and what precedes it in the prefix and in its own turn.

    Args:
        joined: Queries, keys, values: (rows, heads + 2 * kv heads, head size).
        layout: Of the rows.
        sizes: Heads, kv heads, head size.

    Returns:
        (rows, heads * head size).
    """
    padded = scatter_once(joined.flatten(1), layout.places, layout.height)
    *parts, padding = torch.split(padded, [*chain.from_iterable(layout.sizes), layout.padding])
    mixed: list[Tensor] = []
    for span, prefix, turns in zip(layout.spans, parts[::2], parts[1::2], strict=True):
        mixed += _attend_dialogue(prefix[None], torch.unflatten(turns, 0, (len(span.turns), -1)), span.prefix, sizes)
    mixed.append(padding[:, : sizes[0] * sizes[2]])
    return gather_once(torch.cat(mixed), layout.places)


def _attend_dialogue(
    prefix: Tensor, turns: Tensor, prefix_rows: int, sizes: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """One dialogue's attention.

    Args:
        prefix: (1, padded rows, channels), queries, keys and values of all heads side by side.
        turns: (turns, padded rows, channels).
        prefix_rows: Rows of the prefix that are no padding.
        sizes: Heads, kv heads, head size.

    Returns:
        For the prefix (padded rows, heads * head size) and for the turns (turns * padded rows, heads * head size).
    """
    kv_heads, group = sizes[1], sizes[0] // sizes[1]
    query, key, values = _heads(prefix, sizes)
    own = torch.bmm(query[:, 0], key[:, 0].transpose(1, 2))
    height, (count, length) = prefix.shape[1], turns.shape[:2]
    column = torch.arange(height + length, device=prefix.device)
    row = column[:height, None].repeat(group, 1)
    mixed = torch.bmm(torch.softmax(own.masked_fill(column[:height] > row, HIDDEN), -1), values[:, 0])
    turn_query, turn_key, turn_values = _heads(turns, sizes)
    # The prefix's keys are the same for all turns: one product of all their queries
    shared = torch.bmm(turn_query.flatten(1, 2), key[:, 0].transpose(1, 2))
    own = torch.bmm(turn_query.flatten(0, 1), turn_key.flatten(0, 1).transpose(1, 2))
    scores = [torch.unflatten(shared, 1, (count, -1)), torch.unflatten(own, 0, (kv_heads, count))]
    row = column[:length, None].repeat(group, 1)
    hidden = ((column >= prefix_rows) & (column < height)) | (column - height > row)
    weights = torch.softmax(torch.cat(scores, -1).masked_fill(hidden, HIDDEN), -1)
    shared = torch.bmm(weights[..., :height].flatten(1, 2), values[:, 0])
    own = torch.bmm(weights[..., height:].flatten(0, 1), turn_values.flatten(0, 1))
    both = torch.unflatten(shared, 1, (count, -1)) + torch.unflatten(own, 0, (kv_heads, count))
    return _flat(mixed[:, None], prefix), _flat(both, turns)


def _heads(joined: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (kv heads, parts, heads of a group * rows, head size), keys and values (kv heads, parts, rows, ...)."""
    heads, kv_heads, head_size = sizes
    parts = joined.shape[0]
    query, key, values = torch.split(torch.unflatten(joined, -1, (-1, head_size)), [heads, kv_heads, kv_heads], 2)
    grouped = torch.unflatten(query, 2, (kv_heads, -1)).permute(2, 0, 3, 1, 4) * head_size**-0.5
    grouped = grouped.reshape(kv_heads, parts, -1, head_size)
    return grouped, key.permute(2, 0, 1, 3).contiguous(), values.permute(2, 0, 1, 3).contiguous()


def _flat(mixed: Tensor, like: Tensor) -> Tensor:
    """(kv heads, parts, heads of a group * rows, head size) to (parts * rows, heads * head size)."""
    rows = like.shape[1]
    return torch.unflatten(mixed, 2, (-1, rows)).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


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

    def run(self, value: Tensor, positions: Tensor, layout: AttentionLayout, kind: torch.dtype, kept: Tensor) -> Tensor:
        """Runs all layers.

        Args:
            value: (rows, size) fp32, the input embeddings.
            positions: (rows,).
            layout: Of the rows.
            kind: Type of the matrix products.
            kept: (n,) rows whose hidden states are wanted; the last layer's MLP runs over no others.

        Returns:
            (n, size) fp32, before the final norm.
        """
        angles = (positions.float()[:, None] * self.frequencies)[:, None]  # (rows, 1, head size / 2)
        rotation = angles.cos(), angles.sin()
        for index, layer in enumerate(self.layers):
            value = layer(value, rotation, layout, kind, kept if index + 1 == len(self.layers) else None)
        return value
