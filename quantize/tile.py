"""Some rows of a matrix on their way through GPTQ, stored position by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from valley2_edge.errors import ExportError
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows
from valley2_edge.runtime.core.rounding import (
    MOST_COLUMNS,
    NOT_FINITE,
    ROW_STEP,
    SCALE_TOO_LARGE,
    ColumnBlock,
    GridFormat,
    Rounder,
)

_PANEL = 512  # positions of a triangular product: wide enough for its rate, narrow enough to skip most of the zeros


@dataclass(frozen=True)
class Problem:
    """What rounding needs to know about a matrix, which is the same for all its rows."""

    name: str
    matrix_format: MatrixFormat
    grid: GridFormat
    rounder: Rounder
    block_size: int
    """Number of positions whose effect on all earlier ones is applied at once; a multiple of 128."""
    fit_first: bool
    """Whether all scales are chosen before anything is rounded; otherwise when their group begins."""
    arrangement: torch.Tensor
    """(columns,) int64: the column at each position; the last position is rounded first."""
    triangle: torch.Tensor
    """(columns, columns) float32: L of factor.py, by position."""
    pivots: torch.Tensor
    """(columns,) float32 by position: D of factor.py, what a squared error costs when all earlier positions make up
    for it."""


@dataclass(frozen=True)
class GridRows:
    """Rows with their grids as the native core takes them; rows are a multiple of 16, and on the processor."""

    values: torch.Tensor
    """(rows, columns) uint8."""
    scales: torch.Tensor
    """(groups, rows) float32, numbers that fp16 has."""
    zeros: torch.Tensor
    """(groups, rows) float32, whole numbers."""

    def quantized(self, count: int, matrix_format: MatrixFormat, device: torch.device) -> QuantizedRows:
        """The first rows as they are stored.

        Args:
            count: Number of rows.
            matrix_format: The format in which they were made.
            device: Where the result is to be.
        """
        scales = self.scales[:, :count].T.to(torch.float16).contiguous()
        zeros = self.zeros[:, :count].T.to(torch.uint8).contiguous().to(device) if matrix_format.has_zeros else None
        return QuantizedRows(self.values[:count].to(device), scales.to(device), zeros)


class Tile:
    """Rows while GPTQ rounds them.

    Matrix products are computed where the Hessian is. What lies between two products is the native core's, which sees
    blocks of 128 positions: on the processor where they are, from a GPU in copies.
    """

    def __init__(self, weights: torch.Tensor, problem: Problem) -> None:
        rows, columns = weights.shape
        lanes = -(-rows // ROW_STEP) * ROW_STEP
        groups = columns // problem.matrix_format.group_size
        self._problem = problem
        self._weights = weights
        if lanes != rows:
            self._weights = torch.zeros(lanes, columns, device=weights.device)
            self._weights[:rows] = weights
        self.changes = self._weights[:, problem.arrangement].T.contiguous()
        """(positions, lanes): the exact weights, which become rounded minus exact weights."""
        self.errors = self.changes.clone()
        """(positions, lanes): the targets of the weights, which become rounded weight minus target."""
        self.rows = GridRows(
            torch.empty(lanes, columns, dtype=torch.uint8), torch.empty(groups, lanes), torch.empty(groups, lanes)
        )
        self.loss = 0.0
        """tr(dW H dW^T) with the damped Hessian."""

    def round(self) -> None:
        """Rounds all columns of the rows."""
        problem = self._problem
        if problem.fit_first:
            self._fit_groups()
        for stop in range(len(self.errors), 0, -problem.block_size):
            start = max(0, stop - problem.block_size)
            for last in range(stop, start, -MOST_COLUMNS):
                first = max(start, last - MOST_COLUMNS)
                self._round_block(first, last)
                self._move_targets(slice(first, last), slice(start, first))
            self._move_targets(slice(start, stop), slice(0, start))

    def slopes(self) -> torch.Tensor:
        """The changes times the damped Hessian, (lanes, columns) float32 in stored order; ends `errors` and `changes`.

        With E = dW L, dW H = E D L^T: a triangular product, half as many operations as the product with H.
        """
        problem = self._problem
        del self.changes
        pulls = self.errors.mul_(problem.pivots[:, None])  # (positions, lanes)
        by_position = torch.empty(pulls.shape[1], pulls.shape[0], device=pulls.device)
        for start in range(0, len(pulls), _PANEL):
            stop = min(start + _PANEL, len(pulls))
            torch.mm(pulls[:start].T, problem.triangle[start:stop, :start].T, out=by_position[:, start:stop])
            for first in range(start, stop, MOST_COLUMNS):
                last = min(first + MOST_COLUMNS, stop)
                corner = problem.triangle[first:last, start:last]
                by_position[:, first:last].addmm_(pulls[start:last].T, corner.T)
        del self.errors, pulls
        return by_position.index_select(1, torch.argsort(problem.arrangement))

    def _fit_groups(self) -> None:
        problem = self._problem
        importance = torch.empty_like(problem.pivots)
        importance[problem.arrangement] = problem.pivots
        faults = problem.rounder.fit_groups(
            problem.grid, _host(self._weights), _host(importance), _host(self.rows.scales), _host(self.rows.zeros)
        )
        check_faults(faults, problem.name)

    def _round_block(self, start: int, stop: int) -> None:
        """Rounds the positions from stop - 1 down to start, at most 128."""
        problem, block = self._problem, slice(start, stop)
        errors, changes = self.errors[block].cpu(), self.changes[block].cpu()
        faults = problem.rounder.round_columns(
            problem.grid,
            ColumnBlock(
                columns=_host(problem.arrangement[block]).astype(np.uint32),
                triangle=_host(problem.triangle[block, block]),
                importance=None if problem.fit_first else _host(problem.pivots[block]),
                targets=errors.numpy(),
                weights=changes.numpy(),
                scales=_host(self.rows.scales),
                zeros=_host(self.rows.zeros),
                values=_host(self.rows.values),
            ),
        )
        check_faults(faults, problem.name)
        if self.errors.device.type != "cpu":
            self.errors[block], self.changes[block] = errors, changes
        lengths = torch.linalg.vector_norm(self.errors[block], dim=1).to(torch.float64)
        self.loss += float(lengths.square_() @ problem.pivots[block].to(torch.float64))

    def _move_targets(self, rounded: slice, others: slice) -> None:
        """Makes the targets of other positions make up for the changes at the positions that are rounded."""
        if others.stop > others.start:
            factors = self._problem.triangle[rounded, others]
            self.errors[others].addmm_(factors.T, self.changes[rounded], alpha=-1)


def check_faults(faults: int, name: str) -> None:
    """Raises what the native core found wrong with the weights of a matrix.

    Args:
        faults: What the core returned.
        name: The matrix's name, for the message.

    Raises:
        ExportError: A weight is not finite, or a scale exceeds fp16.
    """
    if faults & NOT_FINITE:
        raise ExportError(f"{name} holds a NaN or an infinity: the checkpoint is damaged")
    if faults & SCALE_TOO_LARGE:
        raise ExportError(f"{name} has weights too large for fp16 scales: choose fp32 or fp16 for it")


def grid_format(matrix_format: MatrixFormat, *, search: bool = False) -> GridFormat:
    """The grid of a format as the native core takes it.

    Args:
        matrix_format: int4 with equal steps, or int8.
        search: Whether scales are searched.
    """
    return GridFormat(matrix_format.bits, matrix_format.group_size, matrix_format.has_zeros, search)


def _host(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor as an array: its own memory on the processor, a copy from a GPU."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
