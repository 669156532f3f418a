"""Computes the triangular factor of an inverse Hessian in place."""

from __future__ import annotations

import torch

from valley2_edge.quantize.hessian import Hessian

_BLOCK = 256  # columns that LAPACK factorises at a time
_PANEL = 2048  # columns of a product; narrow enough to skip most of the triangle that is zero
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
        result[start : start + _BLOCK] = hessian.matrix[chosen][:, arrangement]
    result.diagonal().add_(added[arrangement])
    return result


def inverse_root_(matrix: torch.Tensor) -> torch.Tensor:
    """Computes the lower triangular N with matrix^-1 = N^T N, and writes it over the matrix.

    With A = M M^T (Cholesky, M lower), N = M^-1. GPTQ takes the upper factor U of A^-1 = U^T U from three
    factorisations; in reversed order of the columns U is N, and one factorisation and one triangular inverse suffice.

    Args:
        matrix: (n, n) symmetric, float32 or float64; only its lower triangle is read; overwritten.

    Returns:
        N in the same storage. Memory beyond it: some blocks of n * 256 numbers.

    Raises:
        NotPositiveDefiniteError: The matrix is not positive definite, or holds a NaN.
    """
    _cholesky_(matrix)
    _invert_triangle_(matrix)
    if not bool(torch.isfinite(matrix.sum())):
        raise NotPositiveDefiniteError
    return matrix


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


def _invert_triangle_(matrix: torch.Tensor) -> None:
    """The inverse of a lower triangular matrix, block row by block row from the top."""
    size = matrix.shape[0]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        identity = torch.eye(stop - start, dtype=matrix.dtype, device=matrix.device)
        corner = torch.linalg.solve_triangular(matrix[start:stop, start:stop], identity, upper=False)
        row = torch.empty(stop - start, start, dtype=matrix.dtype, device=matrix.device)
        for left in range(0, start, _PANEL):
            right = min(left + _PANEL, start)
            torch.mm(matrix[start:stop, left:start], matrix[left:start, left:right], out=row[:, left:right])
        if start:
            torch.mm(corner, row, out=matrix[start:stop, :start])
            matrix[start:stop, :start].neg_()
        matrix[start:stop, start:stop] = corner
