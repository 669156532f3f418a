"""GPTQ: rounds column by column, and changes the remaining columns to make up for the error (arXiv 2210.17323)."""

from __future__ import annotations

import torch

from valley2_edge.errors import ExportError
from valley2_edge.quantize.descent import descend
from valley2_edge.quantize.factor import NotPositiveDefiniteError, damped_copy, unit_factor_
from valley2_edge.quantize.gptq_options import ColumnOrder, GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.input_drift import InputDrift
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows, join_rows
from valley2_edge.quantize.tile import Problem, Tile, grid_format
from valley2_edge.runtime.core.rounding import Rounder

DAMPING_SERIES = (1.0, 4.0, 16.0, 64.0)
"""Factors for the damping, which are tried in turn until the Hessian has a Cholesky factor."""

_TILE_ROWS = 1024  # rows that are rounded at a time: enough for the products, which read all of the factor for them


class GptqSolver:
    """One matrix's Hessian, factorised and ready to round blocks of its rows.

    Rows do not depend on one another: a matrix may be given in blocks. Blocks of other sizes may round a few weights
    differently; the same blocks on the same machine and number of threads never do.

    Memory beyond H itself (columns^2 float32) and the caller's rows: the factor, columns^2 float64 up to 8192 columns
    and float32 above, and for a moment a float32 copy of a float64 factor; while rows are rounded the float32 factor
    and 13 bytes for each column of 1024 rows. For 18944 columns the peak is 1.7 GB, for 3584 columns 0.16 GB. H is
    unchanged.

    The Hessian, the factor and all matrix products stay on their device. What lies between two products is computed by
    the native core on the processor: a GPU would gain little, because it is a tenth of the work, and everything has one
    implementation.
    """

    def __init__(
        self,
        hessian: Hessian,
        matrix_format: MatrixFormat,
        options: GptqOptions,
        name: str,
        drift: InputDrift | None = None,
    ) -> None:
        """Factorises the Hessian.

        Args:
            hessian: Hessian of the matrix's inputs; unchanged.
            matrix_format: int4 with equal steps, or int8.
            options: How to round.
            name: The matrix's name, for messages.
            drift: How far the inputs have drifted from those of the unrounded model, whose outputs are then the target;
                None means that the exact weights' outputs on the inputs as they are, are the target.

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
        self.damping, self._added, triangle, pivots = _factorise(hessian, arrangement, options.damping)
        """The damping that was used, which is above options.damping when the Hessian needed more."""
        self._hessian = hessian
        self._options = options
        self._problem = Problem(
            name,
            matrix_format,
            grid_format(matrix_format, search=options.scale_search),
            Rounder(torch.get_num_threads()),
            options.block_size,
            options.order == "activation",
            arrangement,
            triangle,
            pivots,
        )
        self._correction = None if drift is None else self._over_hessian(drift.matrix)
        """(columns, columns) float32: what the target adds to weights, for each of them."""
        self.squared_error = 0.0
        """tr(dW H dW^T) over the rows that are rounded so far, where dW is the change of the target by rounding."""
        self.squared_weight_error = 0.0
        """tr(dW dW^T) over the same rows."""

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
        if self._correction is not None:
            weights = torch.addmm(weights, weights, self._correction)
        tiles = []
        for start in range(0, len(weights), _TILE_ROWS):
            tiles.append(self._solve(weights[start : start + _TILE_ROWS]))
        return join_rows(tiles)

    def _over_hessian(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiplies rows with the inverse of the damped Hessian; all are (rows, columns) float32."""
        problem = self._problem
        triangle, result = problem.triangle, torch.empty_like(rows)
        solved = torch.linalg.solve_triangular(
            triangle.T, rows[:, problem.arrangement], upper=True, left=False, unitriangular=True
        )
        solved = torch.linalg.solve_triangular(
            triangle, solved.div_(problem.pivots), upper=False, left=False, unitriangular=True
        )
        result[:, problem.arrangement] = solved
        return result

    def _solve(self, weights: torch.Tensor) -> QuantizedRows:
        """Rounds a tile of rows."""
        problem, options = self._problem, self._options
        tile = Tile(weights, problem)
        tile.round()
        loss = tile.loss
        if options.descent_passes:
            loss -= descend(
                tile.rows,
                tile.slopes(),
                self._hessian,
                self._added,
                problem.matrix_format,
                options.descent_passes,
                problem.rounder,
                refit_scales=options.scale_refit,
            )
        result = tile.rows.quantized(len(weights), problem.matrix_format, weights.device)
        del tile
        squares = dequantize_rows(result, problem.matrix_format).sub_(weights).square_()  # (rows, columns)
        self.squared_weight_error += float(squares.sum(dim=1).sum(dtype=torch.float64))
        # The loss that was summed up is that of the damped Hessian.
        damping_share = float((squares @ self._added).sum(dtype=torch.float64))
        self.squared_error += max(0.0, loss - damping_share)
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


def _factorise(
    hessian: Hessian, arrangement: torch.Tensor, damping: float
) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The damping that sufficed, what it added to the diagonal by column, and L and D by position in float32."""
    diagonal = hessian.matrix.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean() if not bool(dead.all()) else torch.ones_like(diagonal[0])
    for factor in DAMPING_SERIES:
        added = torch.where(dead, mean, mean * damping * factor)
        triangle = damped_copy(hessian, arrangement, added)
        try:
            pivots = unit_factor_(triangle)
        except NotPositiveDefiniteError:
            continue
        return damping * factor, added, triangle.to(torch.float32), pivots.to(torch.float32)
    raise NotPositiveDefiniteError
