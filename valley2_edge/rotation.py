"""The rotation of the residual stream: an orthogonal change of basis that the weights of a bundle have absorbed.

A weight of one basis becomes a sum of all weights of a row with equal shares, so that none is far larger than the
others, and outlier channels spread over all channels: both cost less when they are rounded (QuaRot, arXiv 2404.00456,
sections 3 and 4; SpinQuant, arXiv 2405.16406, section 3.1). RMSNorm without a gain commutes with the change, so the
model computes the same function (SliceGPT, arXiv 2401.15024, theorem 1: computational invariance).

The matrix is R = D (C ⊗ H), written for rows: a vector x of the model is x R in the bundle. With the size 2^k m, m odd:
D is a diagonal of signs; C is Hartley's matrix of m rows, (cos(2πij/m) + sin(2πij/m)) / sqrt(m); H is Sylvester's
Hadamard matrix of 2^k rows, over sqrt(2^k). C and H are symmetric and orthogonal.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

RotationKind = Literal["hadamard"]

_Doubles = NDArray[np.float64]


class Rotation(BaseModel):
    """Which rotation the weights of a bundle have absorbed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: RotationKind = "hadamard"
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 31)] = 0
    """Decides the signs."""

    def __str__(self) -> str:
        return f"{self.kind}, seed {self.seed}"

    def turn(self, vectors: NDArray[Any]) -> _Doubles:
        """Turns vectors of the model's residual stream into the bundle's basis.

        Args:
            vectors: (..., hidden).

        Returns:
            (..., hidden): the vectors times R.
        """
        size = vectors.shape[-1]
        return _apply(vectors * _signs(f"{self.seed}", size), size)

    def turn_back(self, vectors: NDArray[Any]) -> _Doubles:
        """Turns vectors of the bundle's residual stream into the model's basis.

        Args:
            vectors: (..., hidden).

        Returns:
            (..., hidden): the vectors times the transpose of R.
        """
        size = vectors.shape[-1]
        return _apply(vectors, size) * _signs(f"{self.seed}", size)

    def turn_values(self, vectors: NDArray[Any], head_size: int, queries_per_value: int = 1) -> _Doubles:
        """Turns the values of an attention, each kv head by a matrix of its own.

        What the heads attend to is a mean of values, so `output` undoes the change when its columns are turned alike.

        Args:
            vectors: (..., heads * head_size): values, or what query heads make of them.
            head_size: Channels of a head.
            queries_per_value: Number of neighbouring heads that share the matrix of a kv head.

        Returns:
            (..., heads * head_size).
        """
        heads = vectors.shape[-1] // head_size
        signs = _signs(f"{self.seed}/value", heads // queries_per_value * head_size).reshape(-1, 1, head_size)
        shared = np.broadcast_to(
            signs, (len(signs), queries_per_value, head_size)
        )  # (kv heads, query heads of it, ...)
        return _apply(vectors * shared.reshape(-1), head_size)


@lru_cache(maxsize=8)
def _signs(name: str, size: int) -> _Doubles:
    """The sign of each channel: the lowest bit of the first byte of SHA-256 over "NAME/CHANNEL"; (size,)."""
    bits = [hashlib.sha256(f"{name}/{channel}".encode()).digest()[0] & 1 for channel in range(size)]
    return 1.0 - 2.0 * np.array(bits, np.float64)


def _apply(vectors: NDArray[Any], size: int) -> _Doubles:
    """Multiplies every piece of `size` channels with C ⊗ H; float64."""
    left, right = _factors(size)
    # The matrix is a Kronecker product of two, each the size of a square root: (pieces, left, right).
    pieces = np.asarray(vectors, np.float64).reshape(-1, len(right)) @ right
    pieces = pieces.reshape(-1, len(left), len(right)).transpose(0, 2, 1).reshape(-1, len(left)) @ left
    turned: _Doubles = pieces.reshape(-1, len(right), len(left)).transpose(0, 2, 1).reshape(vectors.shape)
    return turned


@lru_cache(maxsize=8)
def _factors(size: int) -> tuple[_Doubles, _Doubles]:
    """Two symmetric matrices of about equal size whose Kronecker product is C ⊗ H."""
    power = size & -size
    odd = size // power
    right = 1
    while right < power and right * right < size:
        right *= 2
    left = np.asarray(np.kron(_hartley(odd), _hadamard(power // right)), np.float64)
    return left, _hadamard(right)


def _hartley(size: int) -> _Doubles:
    angles = 2 * np.pi / size * (np.outer(np.arange(size), np.arange(size)) % size)
    matrix: _Doubles = (np.cos(angles) + np.sin(angles)) / np.sqrt(size)
    return matrix


def _hadamard(size: int) -> _Doubles:
    matrix: _Doubles = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix /= np.sqrt(size)
    return matrix
