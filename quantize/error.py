"""Measures what rounding a matrix costs, in its weights and in its output."""

from __future__ import annotations

import math

import torch

from valley2_edge.quantize.hessian import Hessian

_BLOCK_ROWS = 512


def output_energy(rows: torch.Tensor, hessian: Hessian) -> float:
    """Computes tr(R H R^T), the mean squared norm of R x over the calibration inputs x.

    Time: 2 * rows * columns^2 operations. Memory: 512 * columns numbers.

    Args:
        rows: R, (rows, columns) float32: the weights, or their change by rounding.
        hessian: H, the Hessian of the inputs.

    Returns:
        A number from 0 up.
    """
    total = 0.0
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        total += float((block @ hessian.matrix).mul_(block).sum(dtype=torch.float64))
    return max(0.0, total)


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
