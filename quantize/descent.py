"""Coordinate descent on the error of the output, after a matrix has been rounded.

GPTQ rounds every column once and never looks back. Here each integer is chosen again while all others stay, and each
scale is fitted again to the integers of its group. Every step is the exact minimum along its coordinate, so the error
never rises. The integers are those of QuantEase (arXiv 2309.01885, algorithm 1) and CDQuant (arXiv 2406.17542, cyclic);
the scales are a step of the same descent, in closed form.
"""

from __future__ import annotations

import torch

from valley2_edge.quantize.grid import INT4_ZERO, INT8_ZERO, levels_
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows

_BLOCK = 128  # columns that are visited at a time; a multiple of every group size
_STRIP = 32  # columns whose changes are applied to one another one by one; at most the smallest group
_ROUNDS = 2  # rounds over the columns of a block in a visit: cheap compared with the product that a visit begins with


def descend(
    weights: torch.Tensor,
    rows: QuantizedRows,
    hessian: Hessian,
    added: torch.Tensor,
    matrix_format: MatrixFormat,
    passes: int,
    *,
    refit_scales: bool,
) -> tuple[QuantizedRows, float]:
    """Lowers tr(dW (H + diag(added)) dW^T) of rounded rows, where dW is the stored weights minus the exact ones.

    Zero points do not change. The result does not depend on other rows. Time: 2 * rows * columns^2 operations a pass.
    Memory beyond the arguments: 13 bytes for each weight.

    Args:
        weights: The exact weights, (rows, columns) float32; unchanged.
        rows: The rounded weights, on the same device; unchanged.
        hessian: H, the Hessian of the inputs.
        added: The damping, (columns,) float32; above 0 where the diagonal of H is 0.
        matrix_format: int4 with equal steps, or int8.
        passes: Largest number of passes over all columns; a pass that changes no integer is the last.
        refit_scales: Whether the scales are fitted as well.

    Returns:
        The improved rows, and by how much the sum fell, which is 0 or more up to rounding errors.
    """
    descent = _Descent(weights, rows, hessian, added, matrix_format, refit_scales)
    for _ in range(passes):
        if not descent.visit_all():
            break
    return descent.result(), -descent.change


class _Descent:
    """Some rows while they are improved, stored column by column."""

    def __init__(
        self,
        weights: torch.Tensor,
        rows: QuantizedRows,
        hessian: Hessian,
        added: torch.Tensor,
        matrix_format: MatrixFormat,
        refit_scales: bool,
    ) -> None:
        self._weights = weights
        self._hessian = hessian.matrix
        self._added = added
        self._group_size = matrix_format.group_size
        self._refit_scales = refit_scales
        four_bits = matrix_format.precision == "int4"
        self._lowest, self._highest = (0, 15) if four_bits else (1, 255)
        self._has_zeros = rows.zeros is not None
        self._scales = rows.scales.T.to(torch.float32)  # (groups, rows)
        if rows.zeros is None:
            self._zeros = torch.full_like(self._scales, INT4_ZERO if four_bits else INT8_ZERO)
        else:
            self._zeros = rows.zeros.T.to(torch.float32)
        self._levels = rows.values.T.to(torch.float32)  # (columns, rows): integers minus zero points
        self._changes = torch.empty_like(self._levels)  # (columns, rows): stored weights minus exact ones
        for start in range(0, len(self._levels), self._group_size):
            group, columns = start // self._group_size, slice(start, start + self._group_size)
            self._levels[columns] -= self._zeros[group]
            self._changes[columns] = self._levels[columns] * self._scales[group] - weights[:, columns].T
        self.change = 0.0
        """Change of the error so far; negative where it fell."""

    def visit_all(self) -> bool:
        """Makes one pass over all columns; returns whether an integer has changed."""
        moved = False
        for start in range(0, len(self._levels), _BLOCK):
            moved |= self._visit(start, min(start + _BLOCK, len(self._levels)))
        return moved

    def result(self) -> QuantizedRows:
        """The rows as they are stored."""
        values = torch.empty(self._weights.shape, dtype=torch.uint8, device=self._weights.device)
        for start in range(0, len(self._levels), self._group_size):
            columns = slice(start, start + self._group_size)
            values[:, columns] = (self._levels[columns] + self._zeros[start // self._group_size]).T.to(torch.uint8)
        zeros = self._zeros.T.to(torch.uint8).contiguous() if self._has_zeros else None
        return QuantizedRows(values, self._scales.T.to(torch.float16).contiguous(), zeros)

    def _visit(self, start: int, stop: int) -> bool:
        """Improves a block of columns; returns whether an integer has changed."""
        changes, levels = self._changes[start:stop], self._levels[start:stop]  # (block, rows) each
        slopes = (self._hessian[start:stop] @ self._changes).addcmul_(self._added[start:stop, None], changes)
        curvature = self._hessian[start:stop, start:stop].clone()
        curvature.diagonal().add_(self._added[start:stop])
        slopes_before, levels_before = slopes.clone(), levels.clone()
        for _ in range(_ROUNDS):
            for first in range(0, stop - start, _STRIP):
                self._round_strip(start, first, slopes, curvature)
            if self._refit_scales:
                for first in range(0, stop - start, self._group_size):
                    self._refit(start, first, slopes, curvature)
        before = changes.clone()
        for first in range(0, stop - start, self._group_size):
            columns = slice(first, first + self._group_size)
            scales = self._scales[(start + first) // self._group_size]
            changes[columns] = levels[columns] * scales - self._weights[:, start:stop][:, columns].T
        # A quadratic function changes by the step times the sum of its slopes before and after.
        self.change += float(before.neg_().add_(changes).mul_(slopes_before.add_(slopes)).sum(dtype=torch.float64))
        return not torch.equal(levels, levels_before)

    def _round_strip(self, start: int, first: int, slopes: torch.Tensor, curvature: torch.Tensor) -> None:
        """Gives each column of a strip of the block from `start` its best level, one column after the other."""
        last = first + _STRIP
        group = (start + first) // self._group_size
        scales, zeros = self._scales[group], self._zeros[group]
        reciprocals = torch.where(scales == 0, 0.0, 1 / scales)  # a group of zeros keeps its levels
        weights = (-1 / curvature.diagonal()[first:last]).tolist()
        corner = curvature[first:last, first:last]
        steps = torch.empty_like(slopes[first:last])  # (strip, rows): changes of the weights
        for column in range(_STRIP):
            levels = self._levels[start + first + column]
            wanted = torch.addcmul(levels, slopes[first + column], reciprocals, value=weights[column])
            wanted = levels_(wanted, zeros, self._lowest, self._highest).sub_(zeros)
            torch.sub(wanted, levels, out=steps[column]).mul_(scales)
            levels.copy_(wanted)
            slopes[first:last].addr_(corner[column], steps[column])
        slopes[:first].addmm_(curvature[:first, first:last], steps)
        slopes[last:].addmm_(curvature[last:, first:last], steps)

    def _refit(self, start: int, first: int, slopes: torch.Tensor, curvature: torch.Tensor) -> None:
        """Fits the scales of a group of the block from `start`, rounded to fp16, where that lowers the error."""
        columns = slice(first, first + self._group_size)
        group = (start + first) // self._group_size
        levels = self._levels[start + first : start + first + self._group_size]  # (g, rows)
        response = curvature[:, columns] @ levels  # (block, rows): how the slopes respond to the scale
        bend = (levels * response[columns]).sum(dim=0)  # (rows,)
        slope = (levels * slopes[columns]).sum(dim=0)
        scales = self._scales[group]
        fitted = (scales - slope / torch.where(bend > 0, bend, 1.0)).to(torch.float16).to(torch.float32)
        steps = fitted - scales
        better = (bend > 0) & (fitted * scales > 0) & torch.isfinite(fitted) & (steps * (2 * slope + steps * bend) < 0)
        steps = torch.where(better, steps, 0.0)
        self._scales[group] = torch.where(better, fitted, scales)
        slopes.addcmul_(response, steps)
