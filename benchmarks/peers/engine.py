"""What every engine of the comparison is told and must do, and the work that it does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

MatrixName = Literal["qkv", "output", "gate_up", "down"]
MATRICES: tuple[MatrixName, ...] = ("qkv", "output", "gate_up", "down")
BLOCK_VALUES = 1 << 22
GROUP_SIZE = 128
"""Columns that share a scale, where the engine has a choice."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5 decoder."""

    hidden: int = 3584
    intermediate: int = 18944
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    head_size: int = 128
    vocabulary: int = 152064

    @classmethod
    def parse(cls, text: str) -> Shape:
        """The inverse of `text`."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """The sizes as one argument of a command line."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def qkv_rows(self) -> int:
        """Rows of the matrix that makes queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    def matrix(self, name: MatrixName) -> tuple[int, int]:
        """Rows and columns of a layer's matrix."""
        query_rows = self.heads * self.head_size
        return {
            "qkv": (self.qkv_rows, self.hidden),
            "output": (self.hidden, query_rows),
            "gate_up": (2 * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }[name]


TINY = Shape(256, 512, 2, 4, 2, 64, 1024)
"""A shape for trying the comparison itself; its figures mean nothing."""


@dataclass(frozen=True)
class About:
    """What an engine is, and what it must compute and read."""

    version: str
    weights: str
    """How the weights are stored, in a few words."""
    layer_bytes: int
    """Bytes of one layer's matrices, read for every token."""
    head_bytes: int
    """Bytes of the output matrix, read for every token."""
    everywhere: tuple[MatrixName, ...]
    """The matrices of the last layer that a prefill multiplies with every position, not with the last one alone."""

    def prefill_operations(self, shape: Shape, positions: int) -> int:
        """Operations of the matrix products of a prefill whose last position alone needs logits."""
        weights = {name: int(np.prod(shape.matrix(name))) for name in MATRICES}
        at_all = (shape.layers - 1) * sum(weights.values()) + sum(weights[name] for name in self.everywhere)
        once = sum(weights[name] for name in MATRICES if name not in self.everywhere) + shape.vocabulary * shape.hidden
        return 2 * (positions * at_all + once)

    def bytes_per_token(self, shape: Shape) -> int:
        """Bytes of the weights that a token reads; the KV cache is left out."""
        return shape.layers * self.layer_bytes + self.head_bytes


class Engine(Protocol):
    """One engine with its model loaded."""

    about: About

    def prefill(self, positions: int) -> float:
        """Forgets everything, computes this many positions and the last one's logits; returns seconds."""

    def decode(self, tokens: int) -> float:
        """Goes on from there, one position at a time; returns seconds."""


def random_bytes(count: int) -> Iterator[bytes]:
    """So many bytes in pieces; they repeat after a block."""
    block = np.random.default_rng(0).bytes(min(count, BLOCK_VALUES))
    while count > 0:
        yield block[:count]
        count -= len(block)


def random_rows(shape: Shape, positions: int) -> npt.NDArray[np.float32]:
    """Input of a decoder, (positions, hidden)."""
    return np.random.default_rng(1).standard_normal((positions, shape.hidden), np.float32)
