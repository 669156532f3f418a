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

_BLOCK = 128  # columns that are visited together; a multiple of every group size
_STRIP = 32  # columns that correct one another singly
_ROUNDS = 2  # over the columns of a block while it is visited: cheap beside the product that a visit begins with


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
    """Lowers tr(dW (H + diag(added)) dW^T) of rounded rows, dW: the stored weights less the exact ones.

    Zero points stay. The result does not depend on other rows. Time: 2 * rows * columns^2 operations a pass. Memory
    beyond the arguments: 13 bytes for each weight.

    Args:
        weights: (rows, columns) float32, the exact ones; unchanged.
        rows: How they are stored so far, on the same device; unchanged.
        hessian: H, of the inputs.
        added: (columns,) float32, the damping; above 0 where the diagonal of H is 0.
        matrix_format: int4 with equal steps, or int8.
        passes: Over all columns, at most; it ends before when a pass changes no integer.
        refit_scales: Whether scales are fitted, too.

    Returns:
        The rows as they are then, and by how much the sum fell, 0 or more but for rounding errors.
    """
    descent = _Descent(weights, rows, hessian, added, matrix_format, refit_scales)
    for _ in range(passes):
        if not descent.visit_all():
            break
    return descent.result(), -descent.change


class _Descent:
    """Some rows while they are improved; everything lies column by column, each with its rows side by side."""

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
        self._levels = rows.values.T.to(torch.float32)  # (columns, rows): integers less zero points
        self._changes = torch.empty_like(self._levels)  # (columns, rows): stored weights less exact ones
        for start in range(0, len(self._levels), self._group_size):
            group, columns = start // self._group_size, slice(start, start + self._group_size)
            self._levels[columns] -= self._zeros[group]
            self._changes[columns] = self._levels[columns] * self._scales[group] - weights[:, columns].T
        self.change = 0.0
        """Of the error so far."""

    def visit_all(self) -> bool:
        """One pass; whether an integer has changed."""
        moved = False
        for start in range(0, len(self._levels), _BLOCK):
            moved |= self._visit(start, min(start + _BLOCK, len(self._levels)))
        return moved

    def result(self) -> QuantizedRows:
        """What the rows are stored as."""
        values = torch.empty(self._weights.shape, dtype=torch.uint8, device=self._weights.device)
        for start in range(0, len(self._levels), self._group_size):
            columns = slice(start, start + self._group_size)
            values[:, columns] = (self._levels[columns] + self._zeros[start // self._group_size]).T.to(torch.uint8)
        zeros = self._zeros.T.to(torch.uint8).contiguous() if self._has_zeros else None
        return QuantizedRows(values, self._scales.T.to(torch.float16).contiguous(), zeros)

    def _visit(self, start: int, stop: int) -> bool:
        """Improves a block of columns; whether an integer has changed."""
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
        # A quadratic function changes by the step times the mean of its slopes, twice.
        self.change += float(before.neg_().add_(changes).mul_(slopes_before.add_(slopes)).sum(dtype=torch.float64))
        return not torch.equal(levels, levels_before)

    def _round_strip(self, start: int, first: int, slopes: torch.Tensor, curvature: torch.Tensor) -> None:
        """Each column of a strip of the block from `start` takes the level that is best for it, one after the other."""
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
        """The scales of a group of the block from `start`, rounded to fp16, where that lowers the error."""
        columns = slice(first, first + self._group_size)
        group = (start + first) // self._group_size
        levels = self._levels[start + first : start + first + self._group_size]  # (g, rows)
        response = curvature[:, columns] @ levels  # (block, rows): of the slopes to the scale
        bend = (levels * response[columns]).sum(dim=0)  # (rows,)
        slope = (levels * slopes[columns]).sum(dim=0)
        scales = self._scales[group]
        fitted = (scales - slope / torch.where(bend > 0, bend, 1.0)).to(torch.float16).to(torch.float32)
        steps = fitted - scales
        better = (bend > 0) & (fitted * scales > 0) & torch.isfinite(fitted) & (steps * (2 * slope + steps * bend) < 0)
        steps = torch.where(better, steps, 0.0)
        self._scales[group] = torch.where(better, fitted, scales)
        slopes.addcmul_(response, steps)
