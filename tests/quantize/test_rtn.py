"""Round to nearest: levels, scales and what happens at the edges of fp16."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valley2_edge.errors import ExportError
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import dequantize_rows, quantize_rows

FORMATS = [
    MatrixFormat(precision, group_size, symmetric)
    for precision in ("int4", "int8")
    for group_size in (32, 64, 128)
    for symmetric in (False, True)
]


def _gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def _relative_error(weights: torch.Tensor, matrix_format: MatrixFormat) -> float:
    restored = dequantize_rows(quantize_rows(weights, matrix_format, "m"), matrix_format)
    return float((restored - weights).norm() / weights.norm())


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_no_weight_is_nearer_to_another_level(matrix_format: MatrixFormat) -> None:
    weights = _gaussian(5, 256)
    rows = quantize_rows(weights, matrix_format, "m")
    levels = np.arange(16) if matrix_format.precision == "int4" else np.arange(1, 256)
    group = matrix_format.group_size
    for row in range(5):
        for column in range(256):
            scale = float(rows.scales[row, column // group])
            default_zero = 8 if matrix_format.precision == "int4" else 128
            zero = default_zero if rows.zeros is None else int(rows.zeros[row, column // group])
            distances = np.abs((levels - zero) * scale - float(weights[row, column]))
            chosen = abs((int(rows.values[row, column]) - zero) * scale - float(weights[row, column]))
            assert chosen <= distances.min() + 1e-9


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_levels_stay_in_range_and_use_both_ends(matrix_format: MatrixFormat) -> None:
    values = quantize_rows(_gaussian(64, 512), matrix_format, "m").values
    if matrix_format.precision == "int8":
        assert values.min() == 1
        assert values.max() == 255
    else:
        assert values.min() == 0
        assert values.max() == 15


def test_error_falls_with_finer_groups_and_more_bits() -> None:
    weights = _gaussian(64, 512)
    errors = [_relative_error(weights, MatrixFormat("int4", group, False)) for group in (128, 64, 32)]
    assert errors == sorted(errors, reverse=True)
    assert 0.095 < errors[0] < 0.105
    assert _relative_error(weights, MatrixFormat("int8", 128)) < 0.008


def test_asymmetric_beats_symmetric_on_gaussian_and_shifted_weights() -> None:
    weights = _gaussian(64, 512)
    for shifted in (weights, weights + 0.03):
        assert _relative_error(shifted, MatrixFormat("int4", 128, False)) < _relative_error(
            shifted, MatrixFormat("int4", 128, True)
        )


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_a_group_of_zeros_stays_zero(matrix_format: MatrixFormat) -> None:
    weights = _gaussian(3, 256)
    weights[1] = 0
    rows = quantize_rows(weights, matrix_format, "m")
    assert torch.count_nonzero(dequantize_rows(rows, matrix_format)[1]) == 0
    assert torch.count_nonzero(rows.scales[1]) == 0


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_weights_below_the_smallest_scale_do_not_become_infinite(matrix_format: MatrixFormat) -> None:
    weights = torch.full((2, 128), 1e-8)
    restored = dequantize_rows(quantize_rows(weights, matrix_format, "m"), matrix_format)
    assert (restored - weights).abs().max() < 6e-8


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_a_scale_beyond_fp16_names_the_matrix(matrix_format: MatrixFormat) -> None:
    weights = _gaussian(2, 128)
    weights[1, 7] = 1e8
    with pytest.raises(ExportError, match=r"layers\.3\.mlp\.down"):
        quantize_rows(weights, matrix_format, "layers.3.mlp.down")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_names_the_matrix(bad: float) -> None:
    weights = _gaussian(2, 128)
    weights[0, 3] = bad
    with pytest.raises(ExportError, match=r"lm_head holds a NaN or an infinity"):
        quantize_rows(weights, MatrixFormat("int4"), "lm_head")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ExportError, match="group size 48"):
        MatrixFormat("int4", 48)
    with pytest.raises(ExportError, match="precision 'int3'"):
        MatrixFormat("int3")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="down has 272 columns"):
        MatrixFormat("int4", 128).check_columns("down", 272)
