"""The panels of the native vision towers' matrices, and their rounding (docs/bundle.md, "Native vision towers")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PANEL = 32
"""Outputs of a panel."""
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
        """(outputs, columns) float32."""
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
    """What the kernels make of activations: 256 even steps for each row, between its least and its largest value.

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
    """Zeros behind the last axis up to a multiple of 32."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % PANEL))


def pack_int8(q: torch.Tensor) -> torch.Tensor:
    """(outputs, columns) int8 to (panels, ceil(columns / 4), 32, 4) uint8, two's complement."""
    return _as_panels(q, BYTES_PER_WORD).view(torch.uint8)


def pack_bf16(weight: torch.Tensor) -> torch.Tensor:
    """(outputs, columns) bfloat16 to (panels, ceil(columns / 2), 32, 2)."""
    return _as_panels(weight, 2)


def panel_shape(outputs: int, columns: int, per_word: int) -> tuple[int, int, int, int]:
    """Shape of the panels of a matrix."""
    return -(-outputs // PANEL), -(-columns // per_word), PANEL, per_word


def _as_panels(values: torch.Tensor, per_word: int) -> torch.Tensor:
    outputs, columns = values.shape
    panels, words, _, _ = panel_shape(outputs, columns, per_word)
    padded = torch.zeros((panels * PANEL, words * per_word), dtype=values.dtype)
    padded[:outputs, :columns] = values
    return padded.view(panels, PANEL, words, per_word).transpose(1, 2).contiguous()
