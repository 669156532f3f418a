"""Chooses the levels that a group of weights may take: an fp16 scale and a zero point."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from valley2_edge.errors import ExportError
from valley2_edge.quantize.matrix_format import MatrixFormat

INT8_ZERO = 128
"""The stored value that stands for 0 in int8."""
INT4_ZERO = 8
"""The stored value that stands for 0 in symmetric int4."""
_SMALLEST_SCALE = 2.0**-24  # the smallest subnormal number of fp16
_ROUNDING = 1.5 * 2.0**23


@dataclass(frozen=True)
class Grid:
    """The levels of groups of weights: weight = (value - zero) * scale, with values from `lowest` to `highest`."""

    scales: torch.Tensor
    """(...) float16: one scale for each group."""
    zeros: torch.Tensor | float
    """(...) float32 whole numbers, or one number for all groups."""
    lowest: int
    highest: int

    def divisors(self) -> torch.Tensor:
        """The numbers to divide weights by, (...) float32: the scales, or 1 where a group is all zeros."""
        scales = self.scales.to(torch.float32)
        return torch.where(scales == 0, 1.0, scales)

    def round(self, groups: torch.Tensor) -> torch.Tensor:
        """Rounds each weight to the nearest level.

        Args:
            groups: (..., group_size) float32.

        Returns:
            (..., group_size) float32 whole numbers from lowest to highest.
        """
        values = groups / self.divisors()[..., None]
        return levels_(values, self._zeros_by_column(), self.lowest, self.highest)

    def weights(self, values: torch.Tensor) -> torch.Tensor:
        """Turns levels into weights, in place.

        Args:
            values: What `round` returned, (..., group_size) float32; overwritten.

        Returns:
            (..., group_size) float32.
        """
        return values.sub_(self._zeros_by_column()).mul_(self.scales.to(torch.float32)[..., None])

    def _zeros_by_column(self) -> torch.Tensor | float:
        return self.zeros[..., None] if isinstance(self.zeros, torch.Tensor) else self.zeros


def levels_(values: torch.Tensor, zeros: torch.Tensor | float, lowest: int, highest: int) -> torch.Tensor:
    """Computes round(values) + zeros within bounds and in place; ties go to even.

    Adding 1.5 * 2^23 rounds a float32 to a whole number. Tensor.round_ does the same by way of MKL, which wakes its
    threads for a thousand numbers: in the column loop of GPTQ that costs ten times the rest.

    Args:
        values: (...) float32, weights in units of the scale; overwritten.
        zeros: Zero points as whole numbers that broadcast to `values`, or one for all.
        lowest: The smallest level.
        highest: The largest level.
    """
    return values.add_(_ROUNDING).sub_(_ROUNDING - zeros).clamp_(lowest, highest)


def fit_grid(low: torch.Tensor, high: torch.Tensor, matrix_format: MatrixFormat, name: str) -> Grid:
    """Chooses the grid that covers the range of each group.

    The scales are rounded to fp16 first, so that the zero points and the levels are chosen for the scale that is
    stored. Symmetric int4 takes its scale from the end of larger magnitude, sign included, which then sits on the level
    -8: all 16 levels are used.

    Args:
        low: The smallest weight of each group, (...) float32.
        high: The largest weight of each group, (...) float32.
        matrix_format: int4 with equal steps, or int8.
        name: The matrix's name, for messages.

    Raises:
        ExportError: A bound is not finite, or a scale exceeds fp16.
    """
    if matrix_format.code != "uniform" or not matrix_format.quantized:
        raise ExportError(f"{name} is to be stored as {matrix_format.code} {matrix_format.precision}: no equal steps")
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ExportError(f"{name} holds a NaN or an infinity: the checkpoint is damaged")
    if matrix_format.precision == "int8":
        return Grid(storable_scales(torch.maximum(-low, high) / 127, name), INT8_ZERO, 1, 255)
    if matrix_format.symmetric:
        extremes = torch.where(high > -low, high, low)
        return Grid(storable_scales(extremes / -8, name), INT4_ZERO, 0, 15)
    low, high = low.clamp(max=0), high.clamp(min=0)  # zero stays representable
    scales = storable_scales((high - low) / 15, name)
    grid = Grid(scales, INT4_ZERO, 0, 15)
    return Grid(scales, levels_(-low / grid.divisors(), 0.0, 0, 15), 0, 15)


def storable_scales(exact: torch.Tensor, name: str) -> torch.Tensor:
    """Rounds scales to fp16.

    A scale that would vanish becomes the smallest that fp16 has; a group of zeros keeps 0.

    Args:
        exact: The exact scales, (...) float32.
        name: The matrix's name, for messages.

    Raises:
        ExportError: A scale exceeds fp16.
    """
    scales = exact.to(torch.float16)
    if torch.isinf(scales).any():
        raise ExportError(f"{name} has weights too large for fp16 scales: choose fp32 or fp16 for it")
    vanished = (scales == 0) & (exact != 0)
    if vanished.any():
        scales = torch.where(vanished, (torch.sign(exact) * _SMALLEST_SCALE).to(torch.float16), scales)
    return scales
