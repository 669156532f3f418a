"""The methods behind their interface: blocks of rows, records, fallbacks."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import correlated, gaussian, hessian_from, hessian_of

from valley2_edge.errors import ExportError
from valley2_edge.quantize.error import output_energy, relative_output_error, relative_weight_error
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.method import MethodName, quantize_matrix, rounding_method
from valley2_edge.quantize.rtn import dequantize_rows, quantize_rows

CASES: list[tuple[MethodName, MatrixFormat]] = [
    ("rtn", MatrixFormat("int4", 64)),
    ("rtn", MatrixFormat("int8", 64)),
    ("nf4", MatrixFormat("int4", 64, code="nf4")),
    ("gptq", MatrixFormat("int4", 64)),
    ("gptq", MatrixFormat("int8", 64)),
]


@pytest.mark.parametrize(("name", "matrix_format"), CASES)
def test_the_record_says_what_rounding_cost(name: MethodName, matrix_format: MatrixFormat) -> None:
    weights, hessian = gaussian(40, 128), hessian_of(correlated(600, 128))
    rows, record = quantize_matrix(weights, matrix_format, hessian, "layers.0.mlp.down", rounding_method(name))
    stored = dequantize_rows(rows, matrix_format)
    assert (record.name, record.method, record.precision) == ("layers.0.mlp.down", name, matrix_format.precision)
    assert record.group_size == 64 and record.fallback is None
    assert record.weight_error == pytest.approx(relative_weight_error(weights, stored), rel=1e-5)
    assert record.output_error == pytest.approx(relative_output_error(weights, stored, hessian), rel=2e-3)
    assert record.output_loss == pytest.approx(output_energy(stored - weights, hessian), rel=4e-3)
    assert record.damping == (0.01 if name == "gptq" else None)


@pytest.mark.parametrize(("name", "matrix_format"), CASES)
def test_blocks_of_rows_add_up_to_the_matrix(name: MethodName, matrix_format: MatrixFormat) -> None:
    weights, hessian = gaussian(96, 128), hessian_of(correlated(600, 128))
    method = rounding_method(name)
    _, whole = quantize_matrix(weights, matrix_format, hessian, "m", method)
    rounding = method.start(matrix_format, "m", hessian)
    blocks = [rounding.quantize(block) for block in torch.split(weights, 40)]
    assert [len(block.values) for block in blocks] == [40, 40, 16]
    assert rounding.record().output_error == pytest.approx(whole.output_error, rel=1e-2)
    assert rounding.record().weight_error == pytest.approx(whole.weight_error, rel=1e-2)


def test_rtn_behind_the_interface_is_the_function() -> None:
    weights, matrix_format = gaussian(40, 128), MatrixFormat("int4", 32)
    rows, record = quantize_matrix(weights, matrix_format, None, "m", rounding_method("rtn"))
    expected = quantize_rows(weights, matrix_format, "m")
    assert torch.equal(rows.values, expected.values) and torch.equal(rows.scales, expected.scales)
    assert record.output_error is None and record.output_loss is None


def test_nf4_rounds_the_int8_matrix_beside_it_to_nearest() -> None:
    weights, matrix_format = gaussian(40, 128), MatrixFormat("int8", 64)
    rows, record = quantize_matrix(weights, matrix_format, None, "lm_head", rounding_method("nf4"))
    assert torch.equal(rows.values, quantize_rows(weights, matrix_format, "lm_head").values)
    assert (record.method, record.precision) == ("rtn", "int8")


def test_gptq_says_that_it_needed_more_damping() -> None:
    matrix = torch.eye(128)
    matrix[0, 1] = matrix[1, 0] = 1.1
    method = rounding_method("gptq")
    _, record = quantize_matrix(gaussian(5, 128), MatrixFormat("int4"), hessian_from(matrix), "m", method)
    assert record.method == "gptq" and record.damping == pytest.approx(0.16)
    assert record.fallback == "the Hessian is not positive definite with a damping of 0.01: 0.16 was used"


def test_gptq_falls_back_to_rtn_and_says_so() -> None:
    matrix = torch.eye(128)
    matrix[0, 1] = matrix[1, 0] = 5
    weights, matrix_format = gaussian(5, 128), MatrixFormat("int4")
    rows, record = quantize_matrix(weights, matrix_format, hessian_from(matrix), "m", rounding_method("gptq"))
    assert torch.equal(rows.values, quantize_rows(weights, matrix_format, "m").values)
    assert record.method == "rtn" and record.damping is None
    assert record.fallback is not None and "even with a damping of 0.64: rounded to nearest" in record.fallback


def test_the_record_counts_dead_columns() -> None:
    inputs = correlated(600, 128)
    inputs[:, 3:7] = 0
    method = rounding_method("gptq", GptqOptions(order="groups"))
    _, record = quantize_matrix(gaussian(5, 128), MatrixFormat("int4"), hessian_of(inputs), "m", method)
    assert record.dead_columns == 4


def test_what_is_refused() -> None:
    weights, int4 = gaussian(5, 128), MatrixFormat("int4")
    with pytest.raises(ExportError, match="gptq needs calibration inputs for m"):
        quantize_matrix(weights, int4, None, "m", rounding_method("gptq"))
    for name in ("rtn", "gptq"):
        with pytest.raises(ExportError, match="no calibration token reached m"):
            quantize_matrix(weights, int4, Hessian(128, "m"), "m", rounding_method(name))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="not a multiple of the group size"):
        quantize_matrix(gaussian(5, 96), int4, None, "m", rounding_method("rtn"))
    with pytest.raises(ExportError, match="needs the code nf4"):
        quantize_matrix(weights, int4, None, "m", rounding_method("nf4"))
    with pytest.raises(ExportError, match="no options of gptq"):
        rounding_method("rtn", GptqOptions())
    with pytest.raises(ExportError, match="method 'awq' is unknown"):
        rounding_method("awq")  # type: ignore[arg-type]
