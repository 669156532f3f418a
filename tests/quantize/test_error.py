"""What rounding cost, against the activations themselves."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import correlated, gaussian, hessian_of

from valley2_edge.quantize.error import (
    estimated_output_energy,
    output_energy,
    relative_output_error,
    relative_weight_error,
)


def test_the_energy_is_the_mean_squared_norm_of_the_output() -> None:
    weights, inputs = gaussian(1100, 64), correlated(500, 64)
    outputs = inputs.double() @ weights.double().T
    expected = float(outputs.square().sum(dim=1).mean())
    assert output_energy(weights, hessian_of(inputs)) == pytest.approx(expected, rel=1e-5)


def test_relative_errors() -> None:
    weights, inputs = gaussian(30, 64), correlated(500, 64)
    stored = weights + gaussian(30, 64, seed=9) * 0.1
    change = (stored - weights).double()
    outputs, differences = inputs.double() @ weights.double().T, inputs.double() @ change.T
    assert relative_weight_error(weights, stored) == pytest.approx(float(change.norm() / weights.norm()), rel=1e-5)
    expected = float(differences.norm() / outputs.norm())
    assert relative_output_error(weights, stored, hessian_of(inputs)) == pytest.approx(expected, rel=1e-5)


def test_a_matrix_of_zeros_has_no_error() -> None:
    zeros = torch.zeros(3, 64)
    assert relative_weight_error(zeros, zeros) == 0
    assert relative_output_error(zeros, zeros, hessian_of(correlated(10, 64))) == 0


def test_the_mirrored_half_of_a_wide_hessian_counts_twice() -> None:
    weights, inputs = gaussian(3, 2144), correlated(50, 2144)
    outputs = inputs.double() @ weights.double().T
    expected = float(outputs.square().sum() / len(inputs))
    assert output_energy(weights, hessian_of(inputs)) == pytest.approx(expected, rel=1e-4)


def test_an_estimate_is_exact_for_few_rows_and_close_for_many() -> None:
    hessian = hessian_of(correlated(600, 128))
    few = gaussian(256, 128)
    assert estimated_output_energy(few, hessian) == output_energy(few, hessian)
    many = gaussian(3000, 128) * torch.linspace(0.5, 2, 3000)[:, None]
    exact = output_energy(many, hessian)
    assert estimated_output_energy(many, hessian) == pytest.approx(exact, rel=0.1)
    assert estimated_output_energy(many, hessian) != exact
    assert estimated_output_energy(torch.zeros(300, 128), hessian) == 0
