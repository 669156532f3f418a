"""The levels of a group."""

from __future__ import annotations

import pytest
import torch
from quantize_inputs import gaussian

from valley2_edge.errors import ExportError
from valley2_edge.quantize.grid import Grid, fit_grid, levels_
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.scale_search import SHRINK_FACTORS, search_grid


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


@pytest.mark.parametrize("matrix_format", [MatrixFormat("int4", 64, False), MatrixFormat("int4", 64, True)])
def test_the_search_never_costs_more_than_the_whole_range(matrix_format: MatrixFormat) -> None:
    groups = gaussian(50, 256).reshape(50, 4, 64)
    importance = torch.rand(4, 64, generator=torch.Generator().manual_seed(4)) + 0.01

    def cost(scale_search: bool) -> torch.Tensor:
        if scale_search:
            grid = search_grid(groups, importance, matrix_format, "m")
        else:
            grid = fit_grid(groups.amin(dim=-1), groups.amax(dim=-1), matrix_format, "m")
        errors = grid.weights(grid.round(groups)) - groups
        return (errors.square() * importance).sum(dim=-1)  # (rows, groups)

    assert (cost(True) <= cost(False)).all()
    assert cost(True).sum() < 0.95 * cost(False).sum()


def test_the_search_spares_the_column_that_counts() -> None:
    groups = gaussian(20, 32).reshape(20, 1, 32)
    groups[:, :, 0] = 0.3  # sets the range
    importance = torch.ones(1, 32)
    importance[0, 0] = 0
    matrix_format = MatrixFormat("int4", 32)
    errors = {}
    for weight in (0.0, 1e4):
        importance[0, 0] = weight
        grid = search_grid(groups, importance, matrix_format, "m")
        errors[weight] = (grid.weights(grid.round(groups)) - groups).abs()
    assert errors[1e4][..., 0].mean() < 0.5 * errors[0.0][..., 0].mean()
    assert errors[0.0][..., 1:].mean() < errors[1e4][..., 1:].mean()


def test_formats_without_equal_steps_have_no_grid() -> None:
    for matrix_format in (MatrixFormat("int4", code="nf4"), MatrixFormat("fp16")):
        with pytest.raises(ExportError, match="no equal steps"):
            fit_grid(torch.zeros(1), torch.ones(1), matrix_format, "m")


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_scale_search_finds_the_best_of_every_range_and_of_neighbouring_zero_points(symmetric: bool) -> None:
    matrix_format = MatrixFormat("int4", 32, symmetric)
    generator = torch.Generator().manual_seed(3)
    groups = torch.randn(20, 4, 32, generator=generator)
    importance = torch.rand(4, 32, generator=generator)

    def cost(grid: Grid) -> torch.Tensor:
        return ((grid.weights(grid.round(groups)) - groups).square() * importance).sum(dim=-1)

    found = cost(search_grid(groups, importance, matrix_format, "m"))
    moved = torch.zeros_like(found, dtype=torch.bool)
    for factor in SHRINK_FACTORS:
        grid = fit_grid(factor * groups.amin(dim=-1), factor * groups.amax(dim=-1), matrix_format, "m")
        assert bool((found <= cost(grid)).all())
        if isinstance(grid.zeros, torch.Tensor):
            for step in (-1, 1):
                other = Grid(grid.scales, (grid.zeros + step).clamp(0, 15), 0, 15)
                assert bool((found <= cost(other)).all())
                moved |= found == cost(other)
    assert bool(moved.any()) != symmetric
