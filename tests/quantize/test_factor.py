"""The triangular factor of the inverse Hessian."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import correlated, hessian_of

from valley2_edge.quantize.factor import NotPositiveDefiniteError, damped_copy, factor_dtype, inverse_root_


def _positive_definite(size: int) -> torch.Tensor:
    inputs = correlated(2 * size, size).double()
    matrix = inputs.T @ inputs / (2 * size)
    matrix.diagonal().add_(0.1 * matrix.diagonal().mean())
    return matrix


@pytest.mark.parametrize("size", [1, 32, 256, 257, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_a_root_of_the_inverse(size: int, dtype: torch.dtype) -> None:
    matrix = _positive_definite(size + 4)[:size, :size]
    root = inverse_root_(matrix.to(dtype).clone())
    assert torch.equal(root, root.tril())
    inverse = torch.linalg.inv(matrix)
    difference = root.double().T @ root.double() - inverse
    assert float(difference.norm() / inverse.norm()) < (1e-11 if dtype == torch.float64 else 1e-3)


def test_it_is_the_factor_of_the_paper_in_reversed_order() -> None:
    matrix = _positive_definite(300)
    upper = torch.linalg.cholesky(torch.linalg.inv(matrix), upper=True)
    root = inverse_root_(matrix.flip(0, 1).contiguous())
    torch.testing.assert_close(root.flip(0, 1), upper, rtol=1e-8, atol=1e-10)


def test_it_writes_over_the_matrix_and_reads_only_its_lower_triangle() -> None:
    matrix = _positive_definite(300)
    spoiled = matrix.tril() + torch.full_like(matrix, 7.0).triu(1)
    root = inverse_root_(spoiled)
    assert root.data_ptr() == spoiled.data_ptr()
    assert torch.equal(root, inverse_root_(matrix))


@pytest.mark.parametrize("place", [3, 400])
def test_an_indefinite_matrix_has_none(place: int) -> None:
    matrix = _positive_definite(500)
    matrix[place, place] = -1
    with pytest.raises(NotPositiveDefiniteError):
        inverse_root_(matrix)


def test_a_nan_has_none() -> None:
    matrix = _positive_definite(300)
    matrix[299, 0] = float("nan")
    with pytest.raises(NotPositiveDefiniteError):
        inverse_root_(matrix)


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
