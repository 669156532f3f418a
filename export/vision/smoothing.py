"""Moves outliers from activations into weights, which changes nothing before rounding.

A channel of a LayerNorm's output is divided by a number, and the column of the matrix behind it is multiplied by the
same (Xiao et al. 2022, "SmoothQuant", section 4). There are no activations to measure at export: a normalised channel
is assumed to be normally distributed, so its scale is the LayerNorm's weight, and the bias, which is the same for every
token, goes through the matrix into its bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from valley2_edge.export.vision.native_panels import round_activations, round_matrix

EXPONENTS = (0.25, 0.5, 0.75, 1.0)
"""Shares of an outlier that move into the weights: each is tried, and so is moving nothing."""
SAMPLES = 64
"""Number of tokens with normally distributed channels on which the choices are compared."""
SEED = 20251128
_SMALLEST = 1e-6


@dataclass(frozen=True)
class NormedMatrix:
    """A LayerNorm and the matrix behind it."""

    norm_weight: torch.Tensor
    """(columns,) float32."""
    norm_bias: torch.Tensor
    """(columns,) float32."""
    weight: torch.Tensor
    """(outputs, columns) float32."""
    bias: torch.Tensor
    """(outputs,) float32."""


def smooth(part: NormedMatrix) -> NormedMatrix:
    """Rewrites a norm and its matrix, without changing their product, so that int8 makes the smallest error.

    Args:
        part: The norm and the matrix as the checkpoint has them.

    Returns:
        The pair with the smallest error on random tokens; its norm has a bias of 0.
    """
    bias = part.bias + part.weight @ part.norm_bias
    tokens = torch.randn(SAMPLES, part.weight.shape[1], generator=torch.Generator().manual_seed(SEED))
    best = min(_factors(part.norm_weight.abs(), part.weight), key=lambda factor: _error(part, factor, tokens))
    return NormedMatrix(part.norm_weight / best, torch.zeros_like(part.norm_bias), part.weight * best, bias)


def balance(inner: torch.Tensor, inner_bias: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    """Factors for the channels between two matrices with nothing but sums over tokens between them.

    Args:
        inner: The matrix that computes the channels, (channels, columns) float32.
        inner_bias: Its bias, (channels,) float32.
        outer: The matrix that takes the channels, (outputs, channels) float32.

    Returns:
        (channels,): the rows of `inner` are to be divided by these factors, the columns of `outer` multiplied.
    """
    size = inner.norm(dim=1) + inner_bias.abs()
    return _ratio(size, outer.abs().amax(dim=0), 0.5)


def _factors(size: torch.Tensor, weight: torch.Tensor) -> Iterator[torch.Tensor]:
    yield torch.ones_like(size)
    largest = weight.abs().amax(dim=0)
    for exponent in EXPONENTS:
        yield _ratio(size, largest, exponent)


def _ratio(size: torch.Tensor, largest: torch.Tensor, exponent: float) -> torch.Tensor:
    """size^exponent / largest^(1 - exponent), scaled to 1 on average; channels that are never used get 1."""
    used = (size > _SMALLEST) & (largest > _SMALLEST)
    factor = size.clamp(min=_SMALLEST) ** exponent / largest.clamp(min=_SMALLEST) ** (1 - exponent)
    mean = factor[used].log().mean().exp() if used.any() else torch.ones(())
    return torch.where(used, factor / mean, torch.ones_like(factor))


def _error(part: NormedMatrix, factor: torch.Tensor, tokens: torch.Tensor) -> float:
    inputs = tokens * part.norm_weight
    rounded = round_activations(inputs / factor) @ round_matrix(part.weight * factor).dequantized().T
    return float((rounded - inputs @ part.weight.T).norm())
