"""Coordinate descent: its error never rises, it ends where no single step helps, and it keeps to the format."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import correlated, gaussian, hessian_from, hessian_of

from valley2_edge.quantize.descent import descend
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows, quantize_rows
from valley2_edge.quantize.tile import GridRows
from valley2_edge.runtime.core.rounding import Rounder

FORMATS = [
    MatrixFormat("int4", 128, False),
    MatrixFormat("int4", 64, True),
    MatrixFormat("int4", 32, False),
    MatrixFormat("int8", 128),
]


def _damping(hessian: Hessian) -> torch.Tensor:
    return torch.full((hessian.columns,), 0.01 * float(hessian.matrix.diagonal().mean()))


def _descend(
    weights: torch.Tensor,
    rows: QuantizedRows,
    hessian: Hessian,
    added: torch.Tensor,
    form: MatrixFormat,
    passes: int,
    *,
    refit: bool,
) -> tuple[QuantizedRows, float]:
    """The improved rows and the gain; rows of zeros fill up to a multiple of 16, as in GPTQ."""
    count, columns = weights.shape
    lanes = -(-count // 16) * 16
    groups = columns // form.group_size
    zero = 8.0 if form.precision == "int4" else 128.0
    inside = GridRows(
        torch.zeros(lanes, columns, dtype=torch.uint8), torch.zeros(groups, lanes), torch.full((groups, lanes), zero)
    )
    inside.values[:count], inside.scales[:, :count] = rows.values, rows.scales.T.float()
    if rows.zeros is not None:
        inside.zeros[:, :count] = rows.zeros.T.float()
    slopes = torch.zeros(lanes, columns)
    slopes[:count] = (dequantize_rows(rows, form) - weights) @ (hessian.matrix + added.diag())
    with Rounder(1) as rounder:
        gain = descend(inside, slopes, hessian, added, form, passes, rounder, refit_scales=refit)
    return inside.quantized(count, form, weights.device), gain


def _energies(rows: QuantizedRows, weights: torch.Tensor, matrix: torch.Tensor, form: MatrixFormat) -> torch.Tensor:
    """(rows,) float64: what is to be lowered."""
    changes = (dequantize_rows(rows, form) - weights).double()
    return ((changes @ matrix.double()) * changes).sum(dim=1)


def _same(first: QuantizedRows, second: QuantizedRows) -> bool:
    zeros = first.zeros is second.zeros or torch.equal(first.zeros, second.zeros)  # type: ignore[arg-type]
    return zeros and torch.equal(first.values, second.values) and torch.equal(first.scales, second.scales)


@pytest.mark.slow
@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_the_error_of_no_row_ever_rises(form: MatrixFormat, refit: bool) -> None:
    weights, hessian = gaussian(40, 256), hessian_of(correlated(1024, 256))
    added = _damping(hessian)
    damped = hessian.matrix + added.diag()
    rows = quantize_rows(weights, form, "m")
    before = _energies(rows, weights, damped, form)
    for _ in range(5):
        rows, gain = _descend(weights, rows, hessian, added, form, 1, refit=refit)
        after = _energies(rows, weights, damped, form)
        assert bool((after <= before * (1 + 1e-5)).all())
        assert gain == pytest.approx(float((before - after).sum()), rel=1e-2, abs=1e-5 * float(before.sum()))
        before = after
    assert float(before.sum()) < 0.6 * float(_energies(quantize_rows(weights, form, "m"), weights, damped, form).sum())


@pytest.mark.parametrize("form", FORMATS)
def test_it_ends_where_no_other_level_of_any_weight_is_better(form: MatrixFormat) -> None:
    weights, hessian = gaussian(6, 128), hessian_of(correlated(512, 128))
    added = _damping(hessian)
    damped = hessian.matrix + added.diag()
    rows, _ = _descend(weights, quantize_rows(weights, form, "m"), hessian, added, form, 50, refit=False)
    again, gain = _descend(weights, rows, hessian, added, form, 50, refit=False)
    assert _same(rows, again) and gain == 0
    best = _energies(rows, weights, damped, form)
    lowest, highest = (0, 15) if form.precision == "int4" else (1, 255)
    for column in range(128):
        for step in (-1, 1):
            values = rows.values.to(torch.int16)
            values[:, column] = (values[:, column] + step).clamp(lowest, highest)
            moved = QuantizedRows(values.to(torch.uint8), rows.scales, rows.zeros)
            assert bool((_energies(moved, weights, damped, form) >= best * (1 - 1e-5)).all())


@pytest.mark.parametrize("form", FORMATS)
def test_integers_stay_in_range_and_zero_points_where_they_are(form: MatrixFormat) -> None:
    weights, hessian = 3 * gaussian(33, 384, seed=4), hessian_of(correlated(300, 384))
    nearest = quantize_rows(weights, form, "m")
    rows, _ = _descend(weights, nearest, hessian, _damping(hessian), form, 4, refit=True)
    lowest, highest = (0, 15) if form.precision == "int4" else (1, 255)
    assert lowest <= int(rows.values.min()) and int(rows.values.max()) <= highest
    assert rows.scales.dtype == torch.float16 and bool(torch.isfinite(rows.scales).all())
    assert bool((rows.scales * nearest.scales > 0).all())
    assert (rows.zeros is None) == (nearest.zeros is None)
    assert rows.zeros is None or torch.equal(rows.zeros, nearest.zeros)  # type: ignore[arg-type]
    assert not torch.equal(rows.values, nearest.values) and not torch.equal(rows.scales, nearest.scales)


@pytest.mark.parametrize("form", FORMATS)
def test_inputs_without_correlation_leave_rounding_to_nearest(form: MatrixFormat) -> None:
    weights, hessian = gaussian(70, 256), hessian_from(torch.eye(256) * 3)
    nearest = quantize_rows(weights, form, "m")
    rows, gain = _descend(weights, nearest, hessian, torch.full((256,), 0.03), form, 3, refit=False)
    assert _same(rows, nearest) and gain == 0


def test_a_scale_is_the_least_squares_fit_to_its_integers() -> None:
    form = MatrixFormat("int8", 128)
    weights, hessian = gaussian(10, 256), hessian_from(torch.eye(256))
    nearest = quantize_rows(weights, form, "m")
    rows, _ = _descend(weights, nearest, hessian, torch.zeros(256), form, 1, refit=True)
    levels = (rows.values.double() - 128).reshape(10, 2, 128)
    exact = weights.double().reshape(10, 2, 128)
    fitted = (levels * exact).sum(dim=2) / levels.square().sum(dim=2)
    # Within half a step of fp16, 2^-11; integers that change in the second round move the fit a little.
    assert torch.allclose(rows.scales.double(), fitted, rtol=6e-4)


def test_columns_without_input_and_groups_of_zeros_are_left_alone() -> None:
    form = MatrixFormat("int4", 64, True)
    inputs = correlated(512, 128)
    inputs[:, 70] = 0
    weights, hessian = gaussian(20, 128), hessian_of(inputs)
    weights[:, :64] = 0
    added = _damping(hessian)
    added[70] = float(hessian.matrix.diagonal().mean())
    nearest = quantize_rows(weights, form, "m")
    rows, _ = _descend(weights, nearest, hessian, added, form, 3, refit=False)
    assert torch.equal(rows.values[:, :64], nearest.values[:, :64]) and not rows.scales[:, 0].any()
    assert torch.equal(rows.values[:, 70], nearest.values[:, 70])


def test_rows_do_not_depend_on_one_another_and_arguments_stay() -> None:
    form = MatrixFormat("int4", 32, False)
    weights, hessian = gaussian(48, 128), hessian_of(correlated(512, 128))
    nearest = quantize_rows(weights, form, "m")
    assert nearest.zeros is not None
    kept = [tensor.clone() for tensor in (weights, nearest.values, nearest.scales, nearest.zeros, hessian.matrix)]
    whole, _ = _descend(weights, nearest, hessian, _damping(hessian), form, 2, refit=True)
    again, _ = _descend(weights, nearest, hessian, _damping(hessian), form, 2, refit=True)
    part = QuantizedRows(nearest.values[16:32], nearest.scales[16:32], nearest.zeros[16:32])
    alone, _ = _descend(weights[16:32], part, hessian, _damping(hessian), form, 2, refit=True)
    assert _same(whole, again)
    # Another number of rows may sum a product in another order.
    assert (whole.values[16:32] != alone.values).float().mean() < 0.01
    for before, after in zip(
        kept, (weights, nearest.values, nearest.scales, nearest.zeros, hessian.matrix), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("form", [FORMATS[2], FORMATS[3]])
def test_slopes_stay_right_over_all_columns_of_a_wide_matrix(form: MatrixFormat, refit: bool) -> None:
    weights = gaussian(20, 2336 // form.group_size * form.group_size)
    hessian = hessian_of(correlated(3000, weights.shape[1]))
    added = _damping(hessian)
    damped = hessian.matrix + added.diag()
    nearest = quantize_rows(weights, form, "m")
    before = _energies(nearest, weights, damped, form).sum()
    last = before
    for passes in (1, 2, 4):
        rows, gain = _descend(weights, nearest, hessian, added, form, passes, refit=refit)
        after = _energies(rows, weights, damped, form).sum()
        assert gain == pytest.approx(float(before - after), rel=1e-3)
        assert after < last
        last = after
