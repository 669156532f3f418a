"""Measures what rounding a matrix costs, in its weights and in its output."""

from __future__ import annotations

import math

import torch

from valley2_edge.quantize.hessian import Hessian

_BLOCK_ROWS = 512
_PANEL = 2048  # columns of a product; narrow enough to skip most of the half of H that is the mirror of the other
_STRIDE = 8  # of so many rows one is measured where an estimate will do
_FEW_ROWS = 256  # up to so many rows are all measured


def output_energy(rows: torch.Tensor, hessian: Hessian) -> float:
    """Computes tr(R H R^T), the mean squared norm of R x over the calibration inputs x.

    Time: rows * columns * (columns + 2048) operations, because H is symmetric. Memory: 512 * columns numbers.

    Args:
        rows: R, (rows, columns) float32: the weights, or their change by rounding.
        hessian: H, the Hessian of the inputs.

    Returns:
        A number from 0 up.
    """
    total = 0.0
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        for first in range(0, block.shape[1], _PANEL):
            panel = slice(first, first + _PANEL)
            product = torch.mm(block[:, panel], hessian.matrix[panel, first:]).mul_(block[:, first:])
            own = float(product[:, :_PANEL].sum(dtype=torch.float64))
            total += own + 2 * float(product[:, _PANEL:].sum(dtype=torch.float64))
    return max(0.0, total)


def estimated_output_energy(rows: torch.Tensor, hessian: Hessian) -> float:
    """Estimates tr(R H R^T) from every eighth row; exact up to 256 rows.

    The sum over the measured rows is scaled by the sum of R_ij^2 H_jj, which is known for all rows (a ratio estimate).
    For the weights of a matrix that is within some percent, in an eighth of the time.

    Args:
        rows: R, (rows, columns) float32.
        hessian: H, the Hessian of the inputs.

    Returns:
        A number from 0 up.
    """
    if len(rows) <= _FEW_ROWS:
        return output_energy(rows, hessian)
    alone = rows.square() @ hessian.matrix.diagonal()  # (rows,): the energies if the inputs were not correlated
    measured = float(alone[::_STRIDE].sum(dtype=torch.float64))
    ratio = float(alone.sum(dtype=torch.float64)) / measured if measured else float(_STRIDE)
    return output_energy(rows[::_STRIDE], hessian) * ratio


def relative_weight_error(exact: torch.Tensor, stored: torch.Tensor) -> float:
    """Norm of the weight difference over norm of the weight; 0 for a matrix of zeros.

    Args:
        exact: The exact weights, (rows, columns) float32.
        stored: The weights that the quantised rows stand for, of the same shape.
    """
    return ratio_of_norms(float((stored - exact).double().square().sum()), float(exact.double().square().sum()))


def relative_output_error(exact: torch.Tensor, stored: torch.Tensor, hessian: Hessian) -> float:
    """Norm of the output difference over norm of the output, on the calibration inputs.

    The square of it is tr(dW H dW^T) / tr(W H W^T), with dW = stored - exact and W = exact.

    Args:
        exact: The exact weights, (rows, columns) float32.
        stored: The weights that the quantised rows stand for, of the same shape.
        hessian: Hessian of the inputs.
    """
    return ratio_of_norms(output_energy(stored - exact, hessian), output_energy(exact, hessian))


def ratio_of_norms(squared_error: float, squared_norm: float) -> float:
    """The square root of squared_error / squared_norm, or 0 where the norm is 0.

    Args:
        squared_error: Squared norm of a difference.
        squared_norm: Squared norm of the reference.
    """
    return math.sqrt(squared_error / squared_norm) if squared_norm else 0.0
