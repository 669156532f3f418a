"""The levels of a group."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import gaussian

from valley2_edge.errors import ExportError
from valley2_edge.quantize.grid import fit_grid, levels_
from valley2_edge.quantize.matrix_format import MatrixFormat


def test_levels_are_rounded_with_ties_to_even() -> None:
    values = torch.cat((torch.arange(-40, 41) / 4, gaussian(1, 2000).flatten() * 300, torch.tensor([1e9, -1e9, 3e38])))
    expected = (values.round() + 8).clamp(0, 15)
    assert torch.equal(levels_(values.clone(), 8, 0, 15), expected)
    assert torch.equal(levels_(values.clone(), torch.full_like(values, 8), 0, 15), expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_grid_reaches_both_ends_of_the_range_within_half_a_step(symmetric: bool) -> None:
    groups = gaussian(6, 128).reshape(6, 1, 128)
    low, high = torch.aminmax(groups, dim=-1)
    grid = fit_grid(low, high, MatrixFormat("int4", 128, symmetric), "m")
    errors = (grid.weights(grid.round(groups)) - groups).abs().amax(dim=-1)
    # Symmetric: 8 steps on the side of the larger end, 7 on the other.
    assert (errors <= grid.scales.float().abs() * (1.01 if symmetric else 0.55)).all()


def test_formats_without_equal_steps_have_no_grid() -> None:
    for matrix_format in (MatrixFormat("int4", code="nf4"), MatrixFormat("fp16")):
        with pytest.raises(ExportError, match="no equal steps"):
            fit_grid(torch.zeros(1), torch.ones(1), matrix_format, "m")
