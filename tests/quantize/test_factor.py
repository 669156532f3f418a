"""The triangular factor of the Hessian."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import correlated, hessian_of

from valley2_edge.quantize.factor import NotPositiveDefiniteError, damped_copy, factor_dtype, unit_factor_


def _positive_definite(size: int) -> torch.Tensor:
    inputs = correlated(2 * size, size).double()
    matrix = inputs.T @ inputs / (2 * size)
    matrix.diagonal().add_(0.1 * matrix.diagonal().mean())
    return matrix


@pytest.mark.parametrize("size", [1, 32, 256, 257, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_gives_the_matrix_back(size: int, dtype: torch.dtype) -> None:
    matrix = _positive_definite(size + 4)[:size, :size]
    triangle = matrix.to(dtype).clone()
    pivots = unit_factor_(triangle)
    assert torch.equal(triangle, triangle.tril()) and bool((triangle.diagonal() == 1).all())
    product = (triangle.double() * pivots.double()) @ triangle.double().T
    assert float((product - matrix).norm() / matrix.norm()) < (1e-13 if dtype == torch.float64 else 1e-5)


def test_its_inverse_is_the_factor_of_the_paper_in_reversed_order() -> None:
    matrix = _positive_definite(300)
    upper = torch.linalg.cholesky(torch.linalg.inv(matrix), upper=True)
    triangle = matrix.flip(0, 1).contiguous()
    pivots = unit_factor_(triangle)
    root = torch.linalg.inv(triangle) / pivots.sqrt()[:, None]
    torch.testing.assert_close(root.flip(0, 1), upper, rtol=1e-8, atol=1e-10)


def test_it_reads_only_the_lower_triangle() -> None:
    matrix = _positive_definite(300)
    spoiled = matrix.tril() + torch.full_like(matrix, 7.0).triu(1)
    assert torch.equal(unit_factor_(spoiled), unit_factor_(matrix))
    assert torch.equal(spoiled, matrix)


@pytest.mark.parametrize("place", [3, 400])
def test_an_indefinite_matrix_has_none(place: int) -> None:
    matrix = _positive_definite(500)
    matrix[place, place] = -1
    with pytest.raises(NotPositiveDefiniteError):
        unit_factor_(matrix)


def test_a_nan_has_none() -> None:
    matrix = _positive_definite(300)
    matrix[299, 0] = float("nan")
    with pytest.raises(NotPositiveDefiniteError):
        unit_factor_(matrix)


def test_the_copy_is_arranged_and_damped() -> None:
    hessian = hessian_of(correlated(600, 300))
    arrangement = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    added = torch.arange(300).float()
    copy = damped_copy(hessian, arrangement, added)
    assert copy.dtype == torch.float64
    expected = hessian.matrix.double() + torch.diag(added.double())
    assert torch.equal(copy, expected[arrangement][:, arrangement])


def test_large_factors_are_float32() -> None:
    assert factor_dtype(8192) == torch.float64 and factor_dtype(18944) == torch.float32
