"""Rounds and packs the matrices of the native vision towers (docs/bundle.md, "Native vision towers")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PANEL = 32
"""Number of outputs in a panel; the core has the same number as VISION_PANEL."""
BYTES_PER_WORD = 4
LARGEST_INT8 = 127


@dataclass(frozen=True)
class RoundedMatrix:
    """A matrix in int8 with a scale for each output."""

    q: torch.Tensor
    """(outputs, columns) int8."""
    scales: torch.Tensor
    """(outputs,) float32."""

    def dequantized(self) -> torch.Tensor:
        """The weights that the matrix stands for, (outputs, columns) float32."""
        return self.q.float() * self.scales[:, None]


def round_matrix(weight: torch.Tensor) -> RoundedMatrix:
    """Rounds a matrix to the nearest multiples of 1/127 of each output's largest weight.

    Args:
        weight: (outputs, columns) float32.
    """
    largest = weight.abs().amax(dim=1)
    scales = largest / LARGEST_INT8
    steps = torch.where(scales > 0, scales, torch.ones_like(scales))
    return RoundedMatrix((weight / steps[:, None]).round_().to(torch.int8), scales)


def round_activations(rows: torch.Tensor) -> torch.Tensor:
    """Rounds activations as the kernels do: 256 equal steps for each row, from its smallest to its largest value.

    Args:
        rows: (rows, columns) float32.

    Returns:
        The rounded values, float32.
    """
    least = rows.amin(dim=1, keepdim=True).clamp(max=0)
    span = rows.amax(dim=1, keepdim=True).clamp(min=0) - least
    step = torch.where(span > 0, span / 255, torch.ones_like(span))
    zero = (-least / step).round()
    return ((rows / step).round() + zero).clamp(0, 255).sub(zero) * step


def pad_rows(values: torch.Tensor) -> torch.Tensor:
    """Pads the last axis with zeros to a multiple of 32.

    Args:
        values: (..., width).
    """
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % PANEL))


def pack_int8(q: torch.Tensor) -> torch.Tensor:
    """Packs an int8 matrix into panels.

    Args:
        q: (outputs, columns) int8.

    Returns:
        (panels, ceil(columns / 4), 32, 4) uint8, two's complement.
    """
    return _as_panels(q, BYTES_PER_WORD).view(torch.uint8)


def pack_floats(weight: torch.Tensor) -> torch.Tensor:
    """Packs a matrix of floats into panels.

    Args:
        weight: (outputs, columns) float32 or bfloat16.

    Returns:
        (panels, columns, 32, 1) float32, or (panels, ceil(columns / 2), 32, 2) bfloat16.
    """
    return _as_panels(weight, BYTES_PER_WORD // weight.dtype.itemsize)


def panel_shape(outputs: int, columns: int, per_word: int) -> tuple[int, int, int, int]:
    """The shape of the panels of a matrix.

    Args:
        outputs: Rows of the matrix.
        columns: Columns of the matrix.
        per_word: Columns that lie side by side in a word.
    """
    return -(-outputs // PANEL), -(-columns // per_word), PANEL, per_word


def _as_panels(values: torch.Tensor, per_word: int) -> torch.Tensor:
    outputs, columns = values.shape
    panels, words, _, _ = panel_shape(outputs, columns, per_word)
    padded = torch.zeros((panels * PANEL, words * per_word), dtype=values.dtype)
    padded[:outputs, :columns] = values
    return padded.view(panels, PANEL, words, per_word).transpose(1, 2).contiguous()
