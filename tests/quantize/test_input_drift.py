"""The drift from the unrounded model, and the weights that make up for it, against least squares in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valley2_edge.errors import NumericError
from valley2_edge.quantize.gptq import GptqSolver
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.input_drift import InputDrift
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import dequantize_rows

TOKENS, ROWS, COLUMNS = 300, 48, 64


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (rows, columns), exact inputs and the inputs as they are (tokens, columns), and token weights."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator)
    exact = torch.randn(TOKENS, COLUMNS, generator=generator) @ mixing
    inputs = exact @ (torch.eye(COLUMNS) + 0.05 * torch.randn(COLUMNS, COLUMNS, generator=generator))
    inputs += 0.3 * torch.randn(TOKENS, COLUMNS, generator=generator)
    weights = torch.randn(ROWS, COLUMNS, generator=generator)
    return weights, exact, inputs, torch.rand(TOKENS, generator=generator)


def test_the_moment_is_the_weighted_mean_of_products_in_any_batches() -> None:
    _, exact, inputs, token_weights = _inputs()
    moment = InputDrift(COLUMNS, "matrix")
    for batch in (slice(0, 7), slice(7, 200), slice(200, None)):
        moment.add(exact[batch], inputs[batch], token_weights[batch])
    e, x, w = (tensor.numpy().astype(np.float64) for tensor in (exact, inputs, token_weights))
    expected = ((e - x) * w[:, None]).T @ x / w.sum()
    np.testing.assert_allclose(moment.matrix.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_tokens_without_weight_change_nothing() -> None:
    _, exact, inputs, _ = _inputs()
    moment = InputDrift(COLUMNS, "matrix")
    moment.add(exact, inputs, torch.zeros(TOKENS))
    assert not moment.matrix.any()


def test_a_drift_that_is_not_finite_is_refused_by_name() -> None:
    moment = InputDrift(2, "layers.3.mlp.down")
    with pytest.raises(NumericError, match=r"layers\.3\.mlp\.down"):
        moment.add(torch.tensor([[1.0, float("nan")]]), torch.ones(1, 2), torch.ones(1))


def _rounded(follows: bool, precision: str = "int8") -> np.ndarray:
    weights, exact, inputs, token_weights = _inputs()
    hessian, moment = Hessian(COLUMNS, "matrix"), InputDrift(COLUMNS, "matrix")
    hessian.add(inputs, token_weights)
    moment.add(exact, inputs, token_weights)
    matrix_format = MatrixFormat(precision, 32)  # type: ignore[arg-type]
    solver = GptqSolver(hessian, matrix_format, GptqOptions(), "matrix", moment if follows else None)
    rows = solver.quantize(weights)
    return dequantize_rows(rows, matrix_format).numpy().astype(np.float64)


def test_the_target_is_the_ridge_regression_on_the_outputs_of_the_unrounded_model() -> None:
    weights, exact, inputs, token_weights = _inputs()
    w, e, x, t = (tensor.numpy().astype(np.float64) for tensor in (weights, exact, inputs, token_weights))
    second = (x * t[:, None]).T @ x / t.sum()
    damped = second + 0.01 * second.diagonal().mean() * np.eye(COLUMNS)
    # argmin over V of sum_t t * |W e - V x|^2 / sum(t) + damping * |V - W|^2
    expected = w + w @ (((e - x) * t[:, None]).T @ x / t.sum()) @ np.linalg.inv(damped)
    found = _rounded(follows=True)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert np.linalg.norm(expected - w) > 0.05 * np.linalg.norm(w)


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_outputs_come_nearer_to_those_of_the_unrounded_model(precision: str) -> None:
    weights, exact, inputs, token_weights = (tensor.numpy().astype(np.float64) for tensor in _inputs())
    wanted, scale = exact @ weights.T, np.sqrt(token_weights)[:, None]
    errors = [np.linalg.norm((wanted - inputs @ _rounded(kind, precision).T) * scale) for kind in (True, False)]
    assert errors[0] < 0.95 * errors[1]
