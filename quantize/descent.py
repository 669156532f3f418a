"""Coordinate descent on the error of the output, after a matrix has been rounded.

GPTQ rounds every column once and never looks back. Here each integer is chosen again while all others stay, and each
scale is fitted again to the integers of its group. Every step is the exact minimum along its coordinate, so the error
never rises. The integers are those of QuantEase (arXiv 2309.01885, algorithm 1) and CDQuant (arXiv 2406.17542, cyclic);
the scales are a step of the same descent, in closed form.

The slopes of all coordinates are kept while the descent goes on. A fitted scale changes all weights of its group, and
its effect on the slopes is a dense product. Where scales stay, a few integers in a hundred change, and their effect is
a sparse product, which costs next to nothing. Therefore few passes fit scales. In int4 with groups of 64 or more it is
the last one, which needs the slopes of later columns only and so costs half; that loses up to 0.2 % of what the error
falls to. In smaller groups it would be 0.9 %, so there the first pass fits them, and in int8 the first two.
"""

from __future__ import annotations

import torch

from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.tile import GridRows, grid_format
from valley2_edge.runtime.core.rounding import MOST_COLUMNS, MOST_VISITED, Rounder, VisitBlock

# Rounds over the columns of a block in a visit: cheap compared with the effect on all other columns.
_ROUNDS = 2
_FITTING_ROUNDS = 3


def descend(
    rows: GridRows,
    slopes: torch.Tensor,
    hessian: Hessian,
    added: torch.Tensor,
    matrix_format: MatrixFormat,
    passes: int,
    rounder: Rounder,
    *,
    refit_scales: bool,
) -> float:
    """Lowers tr(dW (H + diag(added)) dW^T) of rounded rows, where dW is the stored weights minus the exact ones.

    Zero points do not change. The result does not depend on other rows. Time: 2 * rows * columns^2 operations for a
    pass that fits scales, half of them in the last pass, and for others that times the share of integers that change.
    Memory beyond the arguments: 1024 * 4 bytes a row.

    Args:
        rows: The rounded weights; integers and scales are changed in place.
        slopes: dW (H + diag(added)), (rows, columns) float32 on the device of the Hessian; changed in place, and after
            the last pass worth nothing.
        hessian: H, the Hessian of the inputs.
        added: The damping, (columns,) float32; above 0 where the diagonal of H is 0.
        matrix_format: int4 with equal steps, or int8.
        passes: Largest number of passes over all columns; one that changes no integer is the last, unless one that
            fits scales is still to come.
        rounder: What computes.
        refit_scales: Whether the scales are fitted as well.

    Returns:
        By how much the sum fell, which is 0 or more up to rounding errors.
    """
    fits = _fitting_passes(matrix_format, passes) if refit_scales else [False] * passes
    descent = _Descent(rows, slopes, hessian, added, matrix_format, rounder)
    for number, fit_scales in enumerate(fits):
        moved = descent.visit_all(fit_scales=fit_scales, is_last=number == passes - 1)
        if not moved and not any(fits[number + 1 :]):
            break
    return float(descent.gains.sum())


def _fitting_passes(matrix_format: MatrixFormat, passes: int) -> list[bool]:
    """Whether each pass fits scales."""
    four_bits = matrix_format.precision == "int4"
    fitting = min(passes, 1 if four_bits else 2)
    if four_bits and matrix_format.group_size >= 64:
        return [False] * (passes - fitting) + [True] * fitting
    return [True] * fitting + [False] * (passes - fitting)


class _Descent:
    """Some rows while they are improved."""

    def __init__(
        self,
        rows: GridRows,
        slopes: torch.Tensor,
        hessian: Hessian,
        added: torch.Tensor,
        matrix_format: MatrixFormat,
        rounder: Rounder,
    ) -> None:
        self._rows = rows
        self._slopes = slopes
        self._hessian = hessian.matrix
        self._added = added
        self._grid = grid_format(matrix_format)
        self._rounder = rounder
        self.gains = torch.zeros(len(slopes), dtype=torch.float64)
        """By how much the error of each row fell so far."""

    def visit_all(self, *, fit_scales: bool, is_last: bool) -> bool:
        """Makes one pass over all columns; returns whether an integer has changed.

        Args:
            fit_scales: Whether the scales are fitted as well.
            is_last: Whether nobody will look at the slopes of columns that are behind.
        """
        columns = self._slopes.shape[1]
        moved = torch.zeros(len(self._slopes), dtype=torch.uint8)
        sparse = not fit_scales and self._slopes.device.type == "cpu"
        step = MOST_VISITED if sparse else MOST_COLUMNS
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            changes = self._visit(start, stop, moved, fit_scales=fit_scales, update_slopes=sparse)
            if sparse:
                others = [(stop, columns)] if is_last else [(0, start), (stop, columns)]
                for first, last in others:
                    if last > first:
                        self._rounder.add_sparse_product(
                            changes.numpy(),
                            self._hessian[start:stop, first:last].numpy(),
                            self._slopes[:, first:last].numpy(),
                        )
            else:
                self._apply(changes.to(self._slopes.device), start, stop, stop if is_last else 0)
        return bool(moved.any())

    def _visit(
        self, start: int, stop: int, moved: torch.Tensor, *, fit_scales: bool, update_slopes: bool
    ) -> torch.Tensor:
        """Improves some columns; returns what their weights have changed by, (rows, stop - start) float32."""
        columns = slice(start, stop)
        groups = slice(start // self._grid.group_size, stop // self._grid.group_size)
        changes = torch.empty(len(self._slopes), stop - start)
        self._rounder.visit_columns(
            self._grid,
            VisitBlock(
                rounds=_FITTING_ROUNDS if fit_scales else _ROUNDS,
                fit_scales=fit_scales,
                update_slopes=update_slopes,
                hessian=self._hessian[columns, columns].cpu().numpy(),
                added=self._added[columns].cpu().numpy(),
                slopes=self._slopes[:, columns].cpu().numpy(),
                values=self._rows.values[:, columns].numpy(),
                scales=self._rows.scales[groups].numpy(),
                zeros=self._rows.zeros[groups].numpy(),
                changes=changes.numpy(),
                gains=self.gains.numpy(),
                moved=moved.numpy(),
            ),
        )
        return changes

    def _apply(self, changes: torch.Tensor, start: int, stop: int, first: int) -> None:
        """Applies the changes of some columns to the slopes from column `first` on."""
        self._slopes[:, first:].addmm_(changes, self._hessian[start:stop, first:])
        if first <= start:
            self._slopes[:, start:stop].addcmul_(changes, self._added[start:stop])
