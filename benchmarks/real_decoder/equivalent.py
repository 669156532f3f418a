"""Decoders of the same function with other weights: without the grid they were stored in, or wider by zeros."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from llama_decoder import Shape, Weights

SPREAD = 0.15
PADDED_HIDDEN = 768
"""The next multiple of 256 above 576, which K-quants of llama.cpp and groups of 128 need."""


def rescaled(tensors: Weights, shape: Shape, seed: int = 0) -> Weights:
    """The same function with every column of every matrix multiplied by a factor of its own.

    The released model is stored in Q4_1: rounding in groups of 32 would find that grid again and look better than it
    is. What feeds a column takes the inverse of its factor: a norm, the rows of v, the rows of up.

    Args:
        tensors: All tensors, under llama.cpp's names.
        shape: The decoder's sizes.
        seed: Random seed of the factors, which are exp(0.15 z) with z standard normal.
    """
    generator = np.random.default_rng(seed)

    def factors(count: int) -> npt.NDArray[np.float32]:
        return np.exp(SPREAD * generator.standard_normal(count)).astype(np.float32)

    found = dict(tensors)
    kv_rows = shape.kv_heads * shape.head_size
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        of_attention, of_mlp = factors(shape.hidden), factors(shape.hidden)
        of_values, of_up = factors(kv_rows), factors(shape.intermediate)
        found[prefix + "attn_norm.weight"] = found[prefix + "attn_norm.weight"] / of_attention
        found[prefix + "ffn_norm.weight"] = found[prefix + "ffn_norm.weight"] / of_mlp
        for name in ("attn_q", "attn_k", "attn_v"):
            found[f"{prefix}{name}.weight"] = found[f"{prefix}{name}.weight"] * of_attention
        for name in ("ffn_gate", "ffn_up"):
            found[f"{prefix}{name}.weight"] = found[f"{prefix}{name}.weight"] * of_mlp
        found[prefix + "attn_v.weight"] = found[prefix + "attn_v.weight"] / of_values[:, None]
        found[prefix + "ffn_up.weight"] = found[prefix + "ffn_up.weight"] / of_up[:, None]
        # Each key and value head serves several query heads, whose columns of the output matrix share its factors.
        by_head = of_values.reshape(shape.kv_heads, shape.head_size)
        by_query_head = np.repeat(by_head, shape.heads // shape.kv_heads, axis=0).reshape(-1)
        found[prefix + "attn_output.weight"] = found[prefix + "attn_output.weight"] * by_query_head
        found[prefix + "ffn_down.weight"] = found[prefix + "ffn_down.weight"] * of_up
    return found


def padded_shape(shape: Shape) -> Shape:
    """Sizes of the padded decoder: one query head more for each key and value head.

    RMSNorm divides by the mean over more channels; epsilon shrinks as the mean does.
    """
    heads = PADDED_HIDDEN // shape.head_size
    epsilon = shape.rms_epsilon * shape.hidden / PADDED_HIDDEN
    return replace(shape, hidden=PADDED_HIDDEN, heads=heads, rms_epsilon=epsilon)


def padded(tensors: Weights, shape: Shape) -> Weights:
    """The same function with channels of zeros and query heads of zeros, to `PADDED_HIDDEN` channels.

    Args:
        tensors: All tensors, under llama.cpp's names; the norms have bfloat16 values.
        shape: The decoder's sizes before.
    """
    more = PADDED_HIDDEN - shape.hidden
    norm_factor = math.sqrt(shape.hidden / PADDED_HIDDEN)
    found = {}
    for name, tensor in tensors.items():
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if tensor.ndim == 1:
            found[name] = np.pad((tensor * norm_factor).astype(np.float32), (0, more))
        elif kind == "attn_q":
            found[name] = np.pad(_more_heads(tensor, shape, axis=0), ((0, 0), (0, more)))
        elif kind == "attn_output":
            found[name] = np.pad(_more_heads(tensor, shape, axis=1), ((0, more), (0, 0)))
        elif kind == "ffn_down":
            found[name] = np.pad(tensor, ((0, more), (0, 0)))
        else:
            found[name] = np.pad(tensor, ((0, 0), (0, more)))
    return found


def _more_heads(tensor: npt.NDArray[np.float32], shape: Shape, axis: int) -> npt.NDArray[np.float32]:
    """Adds zeros along `axis`, which is (kv heads, query heads each, head size), as query heads for each kv head."""
    before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
    each = shape.heads // shape.kv_heads
    wanted = PADDED_HIDDEN // shape.head_size // shape.kv_heads
    split = tensor.reshape(*before, shape.kv_heads, each, shape.head_size, *after)
    widths = [(0, 0)] * split.ndim
    widths[axis + 1] = (0, wanted - each)
    return np.pad(split, widths).reshape(*before, PADDED_HIDDEN, *after)
