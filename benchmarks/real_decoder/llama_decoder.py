"""A Llama decoder with its tokenizer, as plain float32 arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Shape:
    """Sizes and constants of a Llama decoder."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    context: int
    rms_epsilon: float
    rope_theta: float


@dataclass(frozen=True)
class TrainedModel:
    """A Llama decoder with its tokenizer."""

    shape: Shape
    tensors: Weights
    """Under llama.cpp's names; the rows of q and k are in the order of Hugging Face's code."""
    tokens: list[str]
    merges: list[str]
    controls: int
    """The first so many tokens are control tokens."""


def halves_of_pairs(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows (2i, 2i + 1) of each head, which llama.cpp rotates together, as (i, i + half), which Hugging Face does."""
    return _swapped(rows, heads, pairs_first=True)


def pairs_of_halves(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """The inverse of `halves_of_pairs`."""
    return _swapped(rows, heads, pairs_first=False)


def _swapped(rows: npt.NDArray[np.float32], heads: int, pairs_first: bool) -> npt.NDArray[np.float32]:
    half = len(rows) // heads // 2
    order = (half, 2) if pairs_first else (2, half)
    return rows.reshape(heads, *order, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
