"""Searches the scales that minimise the error of the output instead of covering the whole range."""

from __future__ import annotations

import torch

from valley2_edge.quantize.grid import Grid, fit_grid
from valley2_edge.quantize.matrix_format import MatrixFormat

SHRINK_FACTORS = tuple(1 - 0.03 * step for step in range(21))
"""Factors that the range of a group is multiplied with; of two that are equally good the first is taken."""


_CHUNK = 1 << 15  # weights that are searched at a time: their temporaries stay in the second-level cache


def search_grid(groups: torch.Tensor, importance: torch.Tensor, matrix_format: MatrixFormat, name: str) -> Grid:
    """Finds for each group the shrunk range whose grid has the smallest sum of importance * (weight - level)^2.

    Where there are zero points, the zero point of each range and its two neighbours are tried.

    Args:
        groups: The weights, (rows, groups, group_size) float32.
        importance: What a squared error costs in each column, (groups, group_size) float32.
        matrix_format: int4 with equal steps, or int8.
        name: The matrix's name, for messages.

    Returns:
        The grid, with scales and zero points of shape (rows, groups).

    Raises:
        ExportError: A weight is not finite, or a scale exceeds fp16.
    """
    step = max(1, _CHUNK // groups[0].numel())
    grids = [_search_rows(rows, importance, matrix_format, name) for rows in torch.split(groups, step)]
    zeros = [grid.zeros for grid in grids if isinstance(grid.zeros, torch.Tensor)]
    return Grid(
        torch.cat([grid.scales for grid in grids]),
        torch.cat(zeros) if zeros else grids[0].zeros,
        grids[0].lowest,
        grids[0].highest,
    )


def _search_rows(groups: torch.Tensor, importance: torch.Tensor, matrix_format: MatrixFormat, name: str) -> Grid:
    low, high = torch.aminmax(groups, dim=-1)  # (rows, groups) each
    best = fit_grid(low, high, matrix_format, name)
    smallest = _cost(groups, importance, best)
    for factor in SHRINK_FACTORS:
        for grid in _neighbours(fit_grid(low * factor, high * factor, matrix_format, name)):
            cost = _cost(groups, importance, grid)
            better = cost < smallest
            smallest = torch.where(better, cost, smallest)
            best = _select(better, grid, best)
    return best


def _neighbours(grid: Grid) -> list[Grid]:
    """The grid itself, and the grids whose zero points are one less and one more."""
    zeros = grid.zeros
    if not isinstance(zeros, torch.Tensor):
        return [grid]
    moved = [(zeros + step).clamp_(grid.lowest, grid.highest) for step in (-1, 1)]
    return [grid, *(Grid(grid.scales, one, grid.lowest, grid.highest) for one in moved)]


def _cost(groups: torch.Tensor, importance: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The cost of each group, (rows, groups) float32."""
    errors = grid.weights(grid.round(groups)).sub_(groups)
    return errors.square_().mul_(importance).sum(dim=-1)


def _select(better: torch.Tensor, grid: Grid, best: Grid) -> Grid:
    zeros = best.zeros
    if isinstance(grid.zeros, torch.Tensor) and isinstance(zeros, torch.Tensor):
        zeros = torch.where(better, grid.zeros, zeros)
    return Grid(torch.where(better, grid.scales, best.scales), zeros, best.lowest, best.highest)
