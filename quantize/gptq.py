"""GPTQ: rounds column by column, and changes the remaining columns to make up for the error (arXiv 2210.17323)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from valley2_edge.errors import ExportError
from valley2_edge.quantize.descent import descend
from valley2_edge.quantize.factor import NotPositiveDefiniteError, damped_copy, inverse_root_
from valley2_edge.quantize.gptq_options import ColumnOrder, GptqOptions
from valley2_edge.quantize.grid import Grid, fit_grid, levels_
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows
from valley2_edge.quantize.scale_search import search_grid

DAMPING_SERIES = (1.0, 4.0, 16.0, 64.0)
"""Factors for the damping, which are tried in turn until the Hessian has a Cholesky factor."""

_TILE_ROWS = 1024  # rows that are rounded at a time: 128 columns of them, 512 KiB, stay in the second-level cache
_STRIP = 32  # columns whose errors are applied to one another one by one; at most the smallest group


@dataclass(frozen=True)
class _Problem:
    """What rounding needs to know about a matrix, which is the same for all its rows."""

    name: str
    matrix_format: MatrixFormat
    options: GptqOptions
    hessian: Hessian
    arrangement: torch.Tensor
    """(columns,) int64: the column at each position; the last position is rounded first."""
    root: torch.Tensor
    """(columns, columns) float32, lower triangle: N of factor.py, by position."""
    importance: torch.Tensor
    """(columns,) float32 by position: what a squared error of a column costs when all later columns make up for it."""
    added: torch.Tensor
    """(columns,) float32 by column: what was added to the diagonal of the Hessian."""


class GptqSolver:
    """One matrix's Hessian, factorised and ready to round blocks of its rows.

    Rows do not depend on one another: a matrix may be given in blocks. Blocks of other sizes may round a few weights
    differently; the same blocks on the same machine and number of threads never do.

    Memory beyond H itself (columns^2 float32) and the caller's rows: the factor, columns^2 float64 up to 8192 columns
    and float32 above, and for a moment a float32 copy of a float64 factor; while rows are rounded the float32 factor
    and 22 bytes for each column of 1024 rows. For 18944 columns the peak is 1.8 GB, for 3584 columns 0.16 GB. H is
    unchanged.
    """

    def __init__(self, hessian: Hessian, matrix_format: MatrixFormat, options: GptqOptions, name: str) -> None:
        """Factorises the Hessian.

        Args:
            hessian: Hessian of the matrix's inputs; unchanged.
            matrix_format: int4 with equal steps, or int8.
            options: How to round.
            name: The matrix's name, for messages.

        Raises:
            ExportError: The Hessian is empty, or the format has no equal steps or does not fit the columns.
            NumericError: The Hessian holds a NaN or an infinity.
            NotPositiveDefiniteError: The Hessian has no Cholesky factor with any damping of the series.
        """
        if matrix_format.code != "uniform" or not matrix_format.quantized:
            raise ExportError(f"{name} is to be stored as {matrix_format.code} {matrix_format.precision}: not for gptq")
        matrix_format.check_columns(name, hessian.columns)
        hessian.check()
        self.name = name
        diagonal = hessian.matrix.diagonal()
        self.dead_columns = int((diagonal == 0).sum())
        """Number of columns whose input was always zero; they are rounded to nearest, without corrections."""
        arrangement = _rounding_order(diagonal, matrix_format.group_size, options.order).flip(0)
        self.damping, added, root = _factorise(hessian, arrangement, options.damping)
        """The damping that was used, which is above options.damping when the Hessian needed more."""
        importance = root.diagonal().square().reciprocal()
        self._problem = _Problem(name, matrix_format, options, hessian, arrangement, root, importance, added)
        self.squared_error = 0.0
        """tr(dW H dW^T) over the rows that are rounded so far, where dW is the change by rounding."""

    def quantize(self, weights: torch.Tensor) -> QuantizedRows:
        """Rounds a block of rows.

        Args:
            weights: (rows, columns) float32 on the device of the Hessian; unchanged.

        Raises:
            ExportError: The columns are not those of the Hessian, a weight is not finite, or a scale exceeds fp16.
        """
        columns = len(self._problem.arrangement)
        if weights.shape[1] != columns:
            raise ExportError(f"{self._problem.name} has {weights.shape[1]} columns and its Hessian {columns}")
        tiles = []
        for start in range(0, len(weights), _TILE_ROWS):
            tile = _Tile(weights[start : start + _TILE_ROWS], self._problem)
            tiles.append(tile.solve())
            self.squared_error += tile.squared_error
        if len(tiles) == 1:
            return tiles[0]
        zeros = [tile.zeros for tile in tiles if tile.zeros is not None]
        return QuantizedRows(
            torch.cat([tile.values for tile in tiles]),
            torch.cat([tile.scales for tile in tiles]),
            torch.cat(zeros) if zeros else None,
        )


class _Tile:
    """Some rows while they are rounded, stored column by column."""

    def __init__(self, weights: torch.Tensor, problem: _Problem) -> None:
        rows, columns = weights.shape
        groups = columns // problem.matrix_format.group_size
        self._weights = weights
        self._problem = problem
        self._work = weights[:, problem.arrangement].T.contiguous()  # (positions, rows)
        self._values = torch.empty(columns, rows, dtype=torch.uint8, device=weights.device)  # by position
        self._scales = torch.empty(groups, rows, dtype=torch.float16, device=weights.device)
        # Zero points, scales, and scales to divide by, in float32 and the same shape.
        self._zeros, self._widened, self._divisors = torch.empty(3, groups, rows, device=weights.device)
        self._loss = 0.0
        self.squared_error = 0.0

    def solve(self) -> QuantizedRows:
        """Rounds all columns of the rows."""
        problem, work = self._problem, self._work
        if problem.options.order == "activation":
            self._fit_static_grids()
        block_size = problem.options.block_size
        for stop in range(len(work), 0, -block_size):
            start = max(0, stop - block_size)
            residuals = self._solve_block(start, stop)  # (stop - start, rows)
            self._loss += float(residuals.square().sum(dtype=torch.float64))
            if start:
                work[:start].addmm_(problem.root[start:stop, :start].T, residuals, alpha=-1)
        return self._result()

    def _fit_static_grids(self) -> None:
        """Chooses the scales of all groups from the weights before rounding."""
        problem = self._problem
        group_size = problem.matrix_format.group_size
        importance = torch.empty_like(problem.importance)
        importance[problem.arrangement] = problem.importance
        groups = self._weights.reshape(len(self._weights), -1, group_size)  # (rows, groups, g)
        self._store(slice(None), self._fit(groups, importance.reshape(-1, group_size)))

    def _fit_grid_at(self, position: int, group: int) -> None:
        """Chooses the scales of the group whose first column is at this position, from the weights as they are now."""
        problem = self._problem
        group_size = problem.matrix_format.group_size
        places = slice(position + 1 - group_size, position + 1)
        groups = self._work[places].T[:, None]  # (rows, 1, g)
        self._store(slice(group, group + 1), self._fit(groups, problem.importance[places][None]))

    def _fit(self, groups: torch.Tensor, importance: torch.Tensor) -> Grid:
        problem = self._problem
        if problem.options.scale_search:
            return search_grid(groups, importance, problem.matrix_format, problem.name)
        low, high = torch.aminmax(groups, dim=-1)
        return fit_grid(low, high, problem.matrix_format, problem.name)

    def _store(self, groups: slice, grid: Grid) -> None:
        self._scales[groups] = grid.scales.T
        self._widened[groups] = grid.scales.T
        self._divisors[groups] = grid.divisors().T
        self._zeros[groups] = grid.zeros.T if isinstance(grid.zeros, torch.Tensor) else grid.zeros
        self._lowest, self._highest = grid.lowest, grid.highest

    def _solve_block(self, start: int, stop: int) -> torch.Tensor:
        """Rounds the positions from stop - 1 down to start; returns the errors in units of the factor's diagonal."""
        root, work = self._problem.root, self._work
        residuals = torch.empty_like(work[start:stop])
        for last in range(stop, start, -_STRIP):
            first = max(start, last - _STRIP)
            strip = residuals[first - start : last - start]
            self._solve_strip(first, last, strip)
            if first > start:
                work[start:first].addmm_(root[first:last, start:first].T, strip, alpha=-1)
        return residuals

    def _solve_strip(self, start: int, stop: int, residuals: torch.Tensor) -> None:
        problem, work = self._problem, self._work
        group_size, static = problem.matrix_format.group_size, problem.options.order == "activation"
        columns = problem.arrangement[start:stop].tolist()
        reciprocals = (1 / problem.root.diagonal()[start:stop]).tolist()
        for position in range(stop - 1, start - 1, -1):
            group = columns[position - start] // group_size
            if not static and (len(work) - 1 - position) % group_size == 0:
                self._fit_grid_at(position, group)
            zeros = self._zeros[group]
            values = levels_(work[position] / self._divisors[group], zeros, self._lowest, self._highest)
            self._values[position] = values
            residual = residuals[position - start]
            torch.sub(work[position], values.sub_(zeros).mul_(self._widened[group]), out=residual)
            residual.mul_(reciprocals[position - start])
            work[start:position].addr_(problem.root[position, start:position], residual, alpha=-1)

    def _result(self) -> QuantizedRows:
        problem = self._problem
        values = torch.empty(self._weights.shape, dtype=torch.uint8, device=self._weights.device)
        values[:, problem.arrangement] = self._values.T
        zeros = self._zeros.T.to(torch.uint8).contiguous() if problem.matrix_format.has_zeros else None
        result = QuantizedRows(values, self._scales.T.contiguous(), zeros)
        del self._work, self._values
        if problem.options.descent_passes:
            result, gain = descend(
                self._weights,
                result,
                problem.hessian,
                problem.added,
                problem.matrix_format,
                problem.options.descent_passes,
                refit_scales=problem.options.scale_refit,
            )
            self._loss -= gain
        changes = dequantize_rows(result, problem.matrix_format).sub_(self._weights)  # (rows, columns)
        # The loss that was summed up is that of the damped Hessian.
        damping_share = changes.square_().sum(dim=0, dtype=torch.float64) @ problem.added.to(torch.float64)
        self.squared_error = max(0.0, self._loss - float(damping_share))
        return result


def _rounding_order(diagonal: torch.Tensor, group_size: int, order: ColumnOrder) -> torch.Tensor:
    """The columns in the order in which they are rounded, (columns,) int64; ties are in stored order."""
    if order == "columns":
        return torch.arange(len(diagonal), device=diagonal.device)
    if order == "activation":
        return torch.argsort(diagonal, descending=True, stable=True)
    groups = diagonal.reshape(-1, group_size)  # (groups, g)
    inside = torch.argsort(groups, dim=1, descending=True, stable=True)
    first = torch.argsort(groups.amax(dim=1), descending=True, stable=True)
    starts = torch.arange(len(groups), device=diagonal.device)[:, None] * group_size
    return (inside + starts)[first].reshape(-1)


def _factorise(hessian: Hessian, arrangement: torch.Tensor, damping: float) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The damping that sufficed, what it added to the diagonal by column, and the float32 factor N by position."""
    diagonal = hessian.matrix.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean() if not bool(dead.all()) else torch.ones_like(diagonal[0])
    for factor in DAMPING_SERIES:
        added = torch.where(dead, mean, mean * damping * factor)
        try:
            root = inverse_root_(damped_copy(hessian, arrangement, added))
        except NotPositiveDefiniteError:
            continue
        return damping * factor, added, root.to(torch.float32)
    raise NotPositiveDefiniteError
