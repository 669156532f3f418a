"""Computes the triangular factor of a Hessian in place."""

from __future__ import annotations

import torch

from valley2_edge.quantize.hessian import Hessian

_BLOCK = 256  # columns that LAPACK factorises at a time
_LARGEST_FLOAT64 = 8192  # columns; a larger matrix in float64 would take gigabytes


class NotPositiveDefiniteError(ArithmeticError):
    """A matrix has no Cholesky factor."""


def factor_dtype(columns: int) -> torch.dtype:
    """The dtype of a factor: float64 up to 8192 columns, and float32 above, where 18944 columns take 1.4 GB.

    Args:
        columns: Number of columns of the Hessian.
    """
    return torch.float64 if columns <= _LARGEST_FLOAT64 else torch.float32


def damped_copy(hessian: Hessian, arrangement: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """Copies H with its columns in another order and something added to its diagonal.

    Args:
        hessian: H, unchanged.
        arrangement: The column of H that each place gets, (columns,) int64.
        added: What is added to the diagonal, in the order of H, (columns,) float32.

    Returns:
        (columns, columns) in the dtype that `factor_dtype` says.
    """
    columns = hessian.columns
    result = torch.empty(columns, columns, dtype=factor_dtype(columns), device=hessian.device)
    for start in range(0, columns, _BLOCK):
        chosen = arrangement[start : start + _BLOCK]
        result[start : start + _BLOCK] = hessian.matrix.index_select(0, chosen).index_select(1, arrangement)
    result.diagonal().add_(added[arrangement])
    return result


def unit_factor_(matrix: torch.Tensor) -> torch.Tensor:
    """Computes L and D of A = L D L^T, L lower with ones on its diagonal, and writes L over the matrix.

    When all positions behind q are rounded and have changed by dW_p, the best weight at q is W_q minus the sum of
    dW_p L_pq, and an error there costs its square times D_q. GPTQ takes what it needs from the Cholesky factor of the
    inverse, which is L^-1 with rows of other lengths; L itself needs no inverse, and is the nearest plane algorithm of
    Babai (arXiv 2507.18553 shows that both round alike).

    Args:
        matrix: A, (n, n) symmetric, float32 or float64; only its lower triangle is read; overwritten by L, whose upper
            triangle is 0.

    Returns:
        The diagonal of D, (n,) in the dtype of the matrix, above 0. Memory beyond it: some blocks of n * 256 numbers.

    Raises:
        NotPositiveDefiniteError: The matrix is not positive definite, or holds a NaN.
    """
    _cholesky_(matrix)
    if not bool(torch.isfinite(matrix.sum())):
        raise NotPositiveDefiniteError
    lengths = matrix.diagonal().clone()
    matrix.div_(lengths)
    return lengths.square_()


def _cholesky_(matrix: torch.Tensor) -> None:
    """The lower Cholesky factor, block column by block column; the upper triangle becomes 0."""
    size = matrix.shape[0]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        rest = matrix[start:, start:stop]  # (size - start, block)
        if start:
            rest.addmm_(matrix[start:, :start], matrix[start:stop, :start].T, alpha=-1)
        corner, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if int(failed) or not bool((corner.diagonal() > 0).all()):
            raise NotPositiveDefiniteError
        matrix[start:stop, start:stop] = corner
        if stop < size:
            below = matrix[stop:, start:stop]
            below.copy_(torch.linalg.solve_triangular(corner.T, below, upper=True, left=False))
    matrix.tril_()
