"""GPTQ against the textbook's formulas, against rounding to nearest, and at its edges."""

from __future__ import annotations

import itertools

import pytest
import torch
from quantize_inputs import correlated, gaussian, hessian_from, hessian_of

from valley2_edge.errors import ExportError, NumericError
from valley2_edge.quantize import gptq as gptq_module
from valley2_edge.quantize import packing
from valley2_edge.quantize.error import output_energy, relative_output_error
from valley2_edge.quantize.factor import NotPositiveDefiniteError
from valley2_edge.quantize.gptq import GptqSolver
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows, quantize_rows

FORMATS = [
    MatrixFormat("int4", 128, False),
    MatrixFormat("int4", 64, True),
    MatrixFormat("int4", 32, False),
    MatrixFormat("int8", 128),
]
OPTIONS = [
    GptqOptions(order=order, scale_search=scale_search, descent_passes=passes)
    for order in ("columns", "activation", "groups")
    for scale_search, passes in ((False, 0), (True, 0), (True, 2))
]
RTN_WITH = GptqOptions(order="columns", scale_search=False, descent_passes=0)


def _solve(weights: torch.Tensor, hessian: Hessian, matrix_format: MatrixFormat, options: GptqOptions) -> QuantizedRows:
    return GptqSolver(hessian, matrix_format, options, "m").quantize(weights)


def _error(rows: QuantizedRows, weights: torch.Tensor, hessian: Hessian, matrix_format: MatrixFormat) -> float:
    return relative_output_error(weights, dequantize_rows(rows, matrix_format), hessian)


def _same(first: QuantizedRows, second: QuantizedRows) -> bool:
    zeros = first.zeros is second.zeros or torch.equal(first.zeros, second.zeros)  # type: ignore[arg-type]
    return zeros and torch.equal(first.values, second.values) and torch.equal(first.scales, second.scales)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("matrix_format", FORMATS)
def test_it_beats_rounding_to_nearest_on_correlated_inputs(matrix_format: MatrixFormat, options: GptqOptions) -> None:
    weights, hessian = gaussian(48, 256), hessian_of(correlated(1024, 256))
    nearest = _error(quantize_rows(weights, matrix_format, "m"), weights, hessian, matrix_format)
    assert _error(_solve(weights, hessian, matrix_format, options), weights, hessian, matrix_format) < 0.8 * nearest


@pytest.mark.slow
@pytest.mark.parametrize("matrix_format", FORMATS)
def test_scale_search_and_activation_order_each_help(matrix_format: MatrixFormat) -> None:
    weights, hessian = gaussian(48, 512), hessian_of(correlated(2048, 512))

    def error(options: GptqOptions) -> float:
        return _error(_solve(weights, hessian, matrix_format, options), weights, hessian, matrix_format)

    plain = error(GptqOptions(order="columns", scale_search=False, descent_passes=0))
    assert error(GptqOptions(order="columns", scale_search=True, descent_passes=0)) < plain
    assert error(GptqOptions(order="activation", scale_search=False, descent_passes=0)) < plain
    assert error(GptqOptions(order="groups", scale_search=False, descent_passes=0)) < plain


@pytest.mark.slow
@pytest.mark.parametrize("matrix_format", FORMATS[:3])
def test_each_part_of_the_descent_helps(matrix_format: MatrixFormat) -> None:
    weights, hessian = gaussian(24, 256), hessian_of(correlated(1024, 256))
    errors = []
    for passes, refit in ((0, False), (1, False), (1, True), (4, True)):
        options = GptqOptions(descent_passes=passes, scale_refit=refit)
        errors.append(_error(_solve(weights, hessian, matrix_format, options), weights, hessian, matrix_format))
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == 4


@pytest.mark.parametrize("matrix_format", FORMATS)
@pytest.mark.parametrize("order", ["columns", "activation", "groups"])
def test_inputs_without_correlation_leave_rounding_to_nearest(matrix_format: MatrixFormat, order: str) -> None:
    weights, hessian = gaussian(70, 256), hessian_from(torch.eye(256) * 3)
    options = GptqOptions(order=order, scale_search=False, descent_passes=0)  # type: ignore[arg-type]
    assert _same(_solve(weights, hessian, matrix_format, options), quantize_rows(weights, matrix_format, "m"))


def _textbook(
    weights: torch.Tensor, matrix: torch.Tensor, order: list[int], group_size: int, scales: torch.Tensor | None
) -> torch.Tensor:
    """(rows, columns) float64: the weights of symmetric int4, by optimal brain surgeon one column at a time.

    The inverse is shrunk after every column (arXiv 2210.17323, equations 2 and 3), without any factorisation.
    scales: (rows, groups) when they are static, else from the group's weights when it begins.
    """
    work, inverse = weights.double().clone(), torch.linalg.inv(matrix.double())
    result, group_scales = torch.zeros_like(work), torch.zeros(len(work), 0)
    for place, column in enumerate(order):
        if scales is not None:
            group_scales = scales[:, column // group_size]
        elif place % group_size == 0:
            group = work[:, column : column + group_size]
            extreme = torch.where(group.amax(dim=1) > -group.amin(dim=1), group.amax(dim=1), group.amin(dim=1))
            group_scales = (extreme.float() / -8).half()
        step = group_scales.double()
        result[:, column] = (work[:, column] / step).round().clamp(-8, 7) * step
        change = (work[:, column] - result[:, column]) / inverse[column, column]
        work -= change[:, None] * inverse[column][None]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column] = inverse[:, column] = 0
    return result


@pytest.mark.parametrize("order", ["columns", "activation"])
def test_it_follows_the_textbook(order: str) -> None:
    weights, hessian = gaussian(9, 192), hessian_of(correlated(800, 192))
    matrix_format = MatrixFormat("int4", 64, True)
    options = GptqOptions(order=order, scale_search=False, descent_passes=0)  # type: ignore[arg-type]
    damped = hessian.matrix.double() + 0.01 * hessian.matrix.diagonal().double().mean() * torch.eye(192)
    if order == "columns":
        expected = _textbook(weights, damped, list(range(192)), 64, None)
    else:
        columns = torch.argsort(hessian.matrix.diagonal(), descending=True, stable=True).tolist()
        expected = _textbook(weights, damped, columns, 64, quantize_rows(weights, matrix_format, "m").scales)
    stored = dequantize_rows(_solve(weights, hessian, matrix_format, options), matrix_format)
    # A weight between two levels may fall to either side, and those after it with it: float32 against float64.
    differing = (stored.double() - expected).abs() > 1e-6
    assert differing.float().mean() < 0.02


def test_three_correlated_columns_against_all_4096_roundings() -> None:
    matrix = torch.eye(32)
    matrix[:3, :3] = torch.tensor([[4.0, 2.5, 1.5], [2.5, 3.0, 1.2], [1.5, 1.2, 2.0]])
    weights, hessian, matrix_format = gaussian(20, 32, seed=5), hessian_from(matrix), MatrixFormat("int4", 32, True)
    rows = quantize_rows(weights, matrix_format, "m")
    nearest = dequantize_rows(rows, matrix_format)
    solved = dequantize_rows(_solve(weights, hessian, matrix_format, RTN_WITH), matrix_format)
    levels = torch.tensor(list(itertools.product(range(-8, 8), repeat=3)), dtype=torch.float32)  # (4096, 3)
    total = {"best": 0.0, "gptq": 0.0, "nearest": 0.0}
    for row in range(20):
        candidates = nearest[row].repeat(len(levels), 1)
        candidates[:, :3] = levels * float(rows.scales[row, 0])
        changes = candidates - weights[row]
        best = float(((changes @ matrix) * changes).sum(dim=1).min())
        gptq = output_energy(solved[row : row + 1] - weights[row], hessian)
        assert gptq >= best * (1 - 1e-5)
        total["best"] += best
        total["gptq"] += gptq
        total["nearest"] += output_energy(nearest[row : row + 1] - weights[row], hessian)
    assert total["gptq"] < total["nearest"]
    # At least half of what can be won.
    assert total["gptq"] - total["best"] < 0.5 * (total["nearest"] - total["best"])


def test_activation_order_keeps_plain_groups_with_scales_of_the_first_weights() -> None:
    weights, hessian = gaussian(20, 256), hessian_of(correlated(1024, 256))
    matrix_format = MatrixFormat("int4", 64, False)
    solved = _solve(
        weights, hessian, matrix_format, GptqOptions(order="activation", scale_search=False, descent_passes=0)
    )
    plain = quantize_rows(weights, matrix_format, "m")
    assert torch.equal(solved.scales, plain.scales)
    assert torch.equal(solved.zeros, plain.zeros)  # type: ignore[arg-type]
    assert not torch.equal(solved.values, plain.values)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_input_gives_the_same_bits(options: GptqOptions) -> None:
    weights, inputs = gaussian(300, 256), correlated(1024, 256)
    matrix_format = MatrixFormat("int4", 32, False)
    first = _solve(weights, hessian_of(inputs), matrix_format, options)
    assert _same(first, _solve(weights.clone(), hessian_of(inputs.clone()), matrix_format, options))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_tiles_of_rows_do_not_depend_on_one_another(options: GptqOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq_module, "_TILE_ROWS", 64)
    weights, hessian = gaussian(150, 128), hessian_of(correlated(512, 128))
    matrix_format = MatrixFormat("int4", 64, False)
    whole = _solve(weights, hessian, matrix_format, options)
    solver = GptqSolver(hessian, matrix_format, options, "m")
    parts = [solver.quantize(part) for part in torch.split(weights, 64)]
    assert torch.equal(whole.values, torch.cat([part.values for part in parts]))
    assert torch.equal(whole.scales, torch.cat([part.scales for part in parts]))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("matrix_format", FORMATS)
def test_the_squared_error_it_keeps_is_that_of_the_output(matrix_format: MatrixFormat, options: GptqOptions) -> None:
    inputs = correlated(1024, 256)
    inputs[:, 17] = 0
    weights, hessian = gaussian(30, 256), hessian_of(inputs)
    solver = GptqSolver(hessian, matrix_format, options, "m")
    change = dequantize_rows(solver.quantize(weights), matrix_format) - weights
    assert solver.squared_error == pytest.approx(output_energy(change, hessian), rel=2e-3)


def test_a_dead_column_is_rounded_to_nearest_and_disturbs_nobody() -> None:
    inputs = correlated(1024, 128)
    inputs[:, 40] = 0
    weights, hessian = gaussian(30, 128), hessian_of(inputs)
    matrix_format = MatrixFormat("int4", 128, False)
    options = GptqOptions(order="activation", scale_search=False, descent_passes=0)
    solver = GptqSolver(hessian, matrix_format, options, "m")
    assert solver.dead_columns == 1
    nearest = quantize_rows(weights, matrix_format, "m").values
    assert torch.equal(solver.quantize(weights).values[:, 40], nearest[:, 40])


def test_an_input_that_is_always_zero_leaves_rounding_to_nearest() -> None:
    weights, hessian = gaussian(5, 128), hessian_of(torch.zeros(10, 128))
    matrix_format = MatrixFormat("int4", 128, False)
    assert _same(_solve(weights, hessian, matrix_format, RTN_WITH), quantize_rows(weights, matrix_format, "m"))


def test_fewer_tokens_than_columns_suffice() -> None:
    weights, hessian = gaussian(16, 256), hessian_of(correlated(40, 256))
    matrix_format = MatrixFormat("int4", 128, False)
    solver = GptqSolver(hessian, matrix_format, GptqOptions(), "m")
    nearest = _error(quantize_rows(weights, matrix_format, "m"), weights, hessian, matrix_format)
    assert solver.damping == 0.01
    assert _error(solver.quantize(weights), weights, hessian, matrix_format) < 0.5 * nearest


@pytest.mark.parametrize(("lowest", "damping"), [(-0.005, 0.01), (-0.03, 0.04), (-0.1, 0.16), (-0.5, 0.64)])
def test_the_damping_rises_until_the_hessian_is_positive_definite(lowest: float, damping: float) -> None:
    matrix = hessian_of(correlated(1024, 128)).matrix.double()
    values, vectors = torch.linalg.eigh(matrix)
    values[0] = lowest * float(values.mean())
    indefinite = (vectors * values) @ vectors.T
    solver = GptqSolver(hessian_from(indefinite), MatrixFormat("int4"), GptqOptions(), "m")
    assert solver.damping == pytest.approx(damping)
    assert torch.isfinite(solver.quantize(gaussian(4, 128)).scales).all()


def test_a_hessian_beyond_repair_is_reported() -> None:
    matrix = torch.eye(128)
    matrix[0, 1] = matrix[1, 0] = 5
    with pytest.raises(NotPositiveDefiniteError):
        GptqSolver(hessian_from(matrix), MatrixFormat("int4"), GptqOptions(), "m")


def test_a_nan_in_the_hessian_or_in_the_weights_names_the_matrix() -> None:
    matrix = torch.eye(128)
    matrix[5, 7] = float("nan")
    with pytest.raises(NumericError, match=r"layers\.2\.mlp\.down"):
        GptqSolver(hessian_from(matrix, "layers.2.mlp.down"), MatrixFormat("int4"), GptqOptions(), "m")
    weights = gaussian(4, 128)
    weights[1, 1] = float("nan")
    for options in OPTIONS:
        with pytest.raises(ExportError, match="m holds a NaN"):
            _solve(weights, hessian_from(torch.eye(128)), MatrixFormat("int4"), options)


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_the_result_survives_packing(matrix_format: MatrixFormat) -> None:
    weights, hessian = gaussian(100, 256), hessian_of(correlated(1024, 256))
    rows = _solve(weights, hessian, matrix_format, GptqOptions())
    if matrix_format.precision == "int8":
        values = packing.unpack_int8(packing.pack_int8(rows.values), 100)
    else:
        values = packing.unpack_int4(packing.pack_int4(rows.values, padding=8), 100)
    zeros = None if rows.zeros is None else packing.unpack_groups(packing.pack_groups(rows.zeros), 100)
    scales = packing.unpack_groups(packing.pack_groups(rows.scales), 100)
    restored = dequantize_rows(QuantizedRows(values, scales, zeros), matrix_format)
    assert torch.equal(restored, dequantize_rows(rows, matrix_format))


def test_options_and_shapes_that_do_not_fit_are_refused() -> None:
    for wrong, message in (
        ({"damping": 0.0}, "--damping .* not 0"),
        ({"order": "random"}, "--column-order .* not 'random'"),
        ({"block_size": 96}, "block size 96"),
        ({"descent_passes": -1}, "--descent-passes .* not -1"),
    ):
        with pytest.raises(ExportError, match=message):
            GptqOptions(**wrong)  # type: ignore[arg-type]
    hessian = hessian_from(torch.eye(128))
    with pytest.raises(ExportError, match="96 columns"):
        GptqSolver(hessian_from(torch.eye(96)), MatrixFormat("int4", 64), GptqOptions(), "m")
    with pytest.raises(ExportError, match="256 columns and its Hessian 128"):
        GptqSolver(hessian, MatrixFormat("int4"), GptqOptions(), "m").quantize(gaussian(2, 256))
    for matrix_format in (MatrixFormat("fp16"), MatrixFormat("int4", code="nf4")):
        with pytest.raises(ExportError, match="not for gptq"):
            GptqSolver(hessian, matrix_format, GptqOptions(), "m")
