"""The rounding kernels against plain numpy, at every instruction set that the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.rounding import (
    NOT_FINITE,
    SCALE_TOO_LARGE,
    ColumnBlock,
    GridFormat,
    Rounder,
    VisitBlock,
)

ISAS = [isa for isa in ISA_NUMBERS if isa == "portable" or (isa != "auto" and isa_available(isa))]
FUSED = [isa for isa in ISAS if isa != "portable"]
GRIDS = [
    GridFormat(4, 32, True, True),
    GridFormat(4, 64, False, True),
    GridFormat(4, 128, True, False),
    GridFormat(4, 32, False, False),
    GridFormat(8, 64, False, True),
    GridFormat(8, 128, False, False),
]
SHRUNK = [1 - 0.03 * step for step in range(21)]
Array = NDArray[np.float64]


@pytest.fixture(scope="module", params=ISAS)
def rounder(request: pytest.FixtureRequest) -> Iterator[Rounder]:
    with Rounder(2, request.param) as made:
        yield made


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bounds(grid: GridFormat) -> tuple[int, int, int]:
    """The lowest and the highest value, and the fixed zero point."""
    return (0, 15, 8) if grid.bits == 4 else (1, 255, 128)


def covering(group: Array, factor: float, grid: GridFormat) -> tuple[float, float]:
    """The scale and the zero point of a group whose range is multiplied with a factor."""
    low, high = np.float32(factor) * group.min(), np.float32(factor) * group.max()
    _, _, zero = bounds(grid)
    if grid.bits == 8:
        return float(np.float16(max(-low, high) / 127)), zero
    if not grid.has_zeros:
        return float(np.float16((high if high > -low else low) / -8)), zero
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float16((high - low) / 15))
    return scale, float(np.clip(np.round(-low / scale), 0, 15))


def cost(group: Array, prices: Array, scale: float, zero: float, grid: GridFormat) -> float:
    lowest, highest, _ = bounds(grid)
    values = np.clip(np.round(group / scale) + zero, lowest, highest)
    return float((prices * ((values - zero) * scale - group) ** 2).sum())


@pytest.mark.parametrize("grid", GRIDS)
def test_scales_cover_the_range_or_are_the_best_of_the_shrunk_ones(rounder: Rounder, grid: GridFormat) -> None:
    columns, groups = 256, 256 // grid.group_size
    weights, prices = normal(1, 32, columns), np.abs(normal(2, columns)) + np.float32(0.01)
    scales, zeros = (np.empty((groups, 32), np.float32) for _ in range(2))
    assert rounder.fit_groups(grid, weights, prices, scales, zeros) == 0
    for row in range(32):
        for index in range(groups):
            part = slice(index * grid.group_size, (index + 1) * grid.group_size)
            group, price = weights[row, part].astype(np.float64), prices[part].astype(np.float64)
            found = float(scales[index, row]), float(zeros[index, row])
            if not grid.search:
                assert found == covering(group, 1.0, grid)
                continue
            tried = []
            for factor in SHRUNK:
                scale, zero = covering(group, factor, grid)
                steps = (0, -1, 1) if grid.has_zeros else (0,)
                tried += [(scale, float(np.clip(zero + step, *bounds(grid)[:2]))) for step in steps]
            assert found in tried
            costs = [cost(group, price, *one, grid) for one in tried]
            assert cost(group, price, *found, grid) <= min(costs) * (1 + 1e-4)


def test_groups_of_zeros_tiny_and_broken_weights(rounder: Rounder) -> None:
    grid = GridFormat(4, 32, False, True)
    prices = np.ones(32, np.float32)
    weights = normal(3, 16, 32)
    weights[0] = 0
    weights[1] *= np.float32(1e-9)
    scales, zeros = (np.empty((1, 16), np.float32) for _ in range(2))
    assert rounder.fit_groups(grid, weights, prices, scales, zeros) == 0
    assert scales[0, 0] == 0 and abs(scales[0, 1]) == 2.0**-24
    weights[2, 5] = np.nan
    assert rounder.fit_groups(grid, weights, prices, scales, zeros) == NOT_FINITE
    weights[2, 5] = 1e6
    assert rounder.fit_groups(grid, weights, prices, scales, zeros) == SCALE_TOO_LARGE


def factored(size: int, seed: int) -> tuple[Array, Array, Array]:
    """A positive definite matrix, and L and D of it."""
    inputs = normal(seed, 3 * size, size).astype(np.float64)
    inputs[:, 1:] += 0.7 * inputs[:, :-1]
    matrix = inputs.T @ inputs / len(inputs)
    root = np.linalg.cholesky(matrix)
    return matrix, root / root.diagonal(), root.diagonal() ** 2


def best_weights(matrix: Array, weights: NDArray[np.float32], changes: NDArray[np.float32], count: int) -> Array:
    """(rows, count): what minimises the error of each row when the positions from `count` on are rounded."""
    later = changes[count:].T.astype(np.float64)  # (rows, positions)
    return weights[:, :count] - np.linalg.solve(matrix[:count, :count], matrix[:count, count:] @ later.T).T


@pytest.mark.parametrize("fits", [False, True])
@pytest.mark.parametrize("grid", [GridFormat(4, 32, True), GridFormat(8, 64, False)])
def test_columns_are_rounded_one_by_one_from_the_last(rounder: Rounder, grid: GridFormat, fits: bool) -> None:
    columns, rows = 128, 32
    matrix, triangle, pivots = factored(columns, 4)
    plain = replace(grid, search=False)
    triangle32, pivots32 = triangle.astype(np.float32), pivots.astype(np.float32)
    order = np.arange(columns) if fits else np.random.default_rng(5).permutation(columns)
    weights = normal(6, rows, columns)
    scales, zeros = (np.empty((columns // grid.group_size, rows), np.float32) for _ in range(2))
    rounder.fit_groups(grid, weights, np.ones(columns, np.float32), scales, zeros)
    values = np.zeros((rows, columns), np.uint8)
    targets = np.ascontiguousarray(weights[:, order].T)
    changes = targets.copy()
    block = ColumnBlock(
        order.astype(np.uint32), triangle32, pivots32 if fits else None, targets, changes, scales, zeros, values
    )
    assert rounder.round_columns(grid, block) == 0
    lowest, highest, _ = bounds(grid)
    moving = weights[:, order].astype(np.float64)  # (rows, positions)
    different = 0
    for position in range(columns - 1, -1, -1):
        group = order[position] // grid.group_size
        if fits and (position + 1) % grid.group_size == 0:
            part = slice(position + 1 - grid.group_size, position + 1)
            best = best_weights(matrix, weights, changes, position + 1)[:, part]
            expected_scales = [covering(one, 1.0, plain)[0] for one in best]
            # A range between two fp16 numbers may fall to either.
            np.testing.assert_allclose(scales[group], expected_scales, rtol=1.1e-3)
            assert (scales[group] == expected_scales).mean() > 0.9
        scale, zero = scales[group].astype(np.float64), zeros[group].astype(np.float64)
        expected = np.clip(np.round(moving[:, position] / scale) + zero, lowest, highest)
        found = values[:, order[position]].astype(np.float64)
        different += int((found != expected).sum())  # a target between two levels may fall to either side
        rounded = (found - zero) * scale
        np.testing.assert_allclose(targets[position], rounded - moving[:, position], atol=2e-5)
        np.testing.assert_allclose(changes[position], rounded - weights[:, order[position]], atol=1e-6)
        moving[:, :position] -= np.outer(changes[position], triangle[position, :position])
    assert different <= 2


def descent_inputs(grid: GridFormat, rows: int, columns: int) -> dict[str, NDArray[np.float32]]:
    """Rounded weights, their slopes with a Hessian, and the Hessian itself."""
    matrix, _, _ = factored(columns, 7)
    weights = normal(8, rows, columns)
    groups = columns // grid.group_size
    scales, zeros = (np.empty((groups, rows), np.float32) for _ in range(2))
    with Rounder(1) as one:
        one.fit_groups(grid, weights, np.ones(columns, np.float32), scales, zeros)
    lowest, highest, _ = bounds(grid)
    spread = [np.repeat(array.T, grid.group_size, axis=1) for array in (scales, zeros)]
    values = np.clip(np.round(weights / spread[0]) + spread[1], lowest, highest)
    hessian = matrix.astype(np.float32)
    added = np.full(columns, 0.05, np.float32)
    slopes = ((values - spread[1]) * spread[0] - weights) @ (hessian + np.diag(added))
    return {
        "weights": weights,
        "scales": scales,
        "zeros": zeros,
        "values": values.astype(np.uint8),
        "hessian": hessian,
        "added": added,
        "slopes": slopes.astype(np.float32),
    }


def stored(inputs: dict[str, NDArray[np.float32]], grid: GridFormat) -> Array:
    scales, zeros = (np.repeat(inputs[name].T, grid.group_size, axis=1) for name in ("scales", "zeros"))
    return (inputs["values"].astype(np.float64) - zeros) * scales


def visit(
    rounder: Rounder, grid: GridFormat, inputs: dict[str, NDArray[np.float32]], *, fit: bool, update: bool
) -> tuple[Array, Array, NDArray[np.uint8]]:
    """Changes, gains and which rows moved; the inputs are changed in place."""
    rows, columns = inputs["slopes"].shape
    changes, gains, moved = np.empty((rows, columns), np.float32), np.zeros(rows), np.zeros(rows, np.uint8)
    names = ("hessian", "added", "slopes", "values", "scales", "zeros")
    arrays = [inputs[name] for name in names]
    rounder.visit_columns(grid, VisitBlock(2, fit, update, *arrays, changes, gains, moved))  # type: ignore[arg-type]
    return changes.astype(np.float64), gains, moved


@pytest.mark.parametrize(("fit", "columns"), [(False, 384), (True, 128)])
@pytest.mark.parametrize("grid", GRIDS[:3])
def test_a_visit_says_truly_what_it_changed_and_gained(
    rounder: Rounder, grid: GridFormat, fit: bool, columns: int
) -> None:
    inputs = descent_inputs(grid, 32, columns)
    weights = inputs["weights"].astype(np.float64)
    damped = (inputs["hessian"] + np.diag(inputs["added"])).astype(np.float64)
    before, old_values, old_scales = stored(inputs, grid), inputs["values"].copy(), inputs["scales"].copy()
    changes, gains, moved = visit(rounder, grid, inputs, fit=fit, update=True)
    after = stored(inputs, grid)
    np.testing.assert_allclose(after - before, changes, atol=1e-6)
    errors = [((one - weights) @ damped * (one - weights)).sum(axis=1) for one in (before, after)]
    np.testing.assert_allclose(gains, errors[0] - errors[1], rtol=1e-3, atol=1e-4)
    assert (gains >= -1e-4).all() and gains.sum() > 0.05 * errors[0].sum()
    np.testing.assert_allclose(inputs["slopes"], (after - weights) @ damped, atol=1e-4)
    assert np.array_equal(moved != 0, (inputs["values"] != old_values).any(axis=1))
    assert np.array_equal(inputs["scales"], old_scales) != fit


def test_a_visit_that_does_not_update_slopes_leaves_them(rounder: Rounder) -> None:
    inputs = descent_inputs(GRIDS[0], 16, 128)
    slopes = inputs["slopes"].copy()
    changes, _, _ = visit(rounder, GRIDS[0], inputs, fit=False, update=False)
    assert changes.any() and np.array_equal(inputs["slopes"], slopes)


def test_a_sparse_product_is_the_product(rounder: Rounder) -> None:
    changes = normal(9, 5, 700)
    changes[normal(10, 5, 700) < 1.5] = 0
    changes[3] = 0
    matrix, target = normal(11, 700, 256), normal(12, 5, 256)
    part = np.s_[:, 16:224]
    expected = target.astype(np.float64)
    expected[part] += changes.astype(np.float64) @ matrix[part]
    rounder.add_sparse_product(changes, matrix[part], target[part])
    np.testing.assert_allclose(target, expected, atol=1e-4)


def everything(threads: int, isa: str, rows: slice) -> list[NDArray[np.generic]]:
    """All results of one tile."""
    grid = GridFormat(4, 32, True, True)
    inputs = descent_inputs(grid, 64, 128)
    inputs = {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()} | {
        name: np.ascontiguousarray(inputs[name][:, rows]) for name in ("scales", "zeros")
    }
    inputs |= {name: descent_inputs(grid, 64, 128)[name] for name in ("hessian", "added")}
    with Rounder(threads, isa) as made:
        made.fit_groups(grid, inputs["weights"], inputs["added"], inputs["scales"], inputs["zeros"])
        _, triangle, _ = factored(128, 4)
        targets = np.ascontiguousarray(inputs["weights"].T)
        weights = targets.copy()
        block = ColumnBlock(
            np.arange(128, dtype=np.uint32),
            triangle.astype(np.float32),
            inputs["added"],
            targets,
            weights,
            inputs["scales"],
            inputs["zeros"],
            inputs["values"],  # type: ignore[arg-type]
        )
        made.round_columns(grid, block)
        visit(made, grid, inputs, fit=True, update=True)
    return [inputs["values"], inputs["slopes"], targets.T, weights.T, inputs["scales"].T, inputs["zeros"].T]


@pytest.mark.parametrize("isa", ISAS)
def test_rows_depend_neither_on_threads_nor_on_other_rows(isa: str) -> None:
    whole = everything(1, isa, slice(0, 64))
    assert all(np.array_equal(one, other) for one, other in zip(whole, everything(3, isa, slice(0, 64)), strict=True))
    part = everything(2, isa, slice(16, 48))
    assert all(np.array_equal(one[16:48], other) for one, other in zip(whole, part, strict=True))


@pytest.mark.skipif(len(FUSED) < 2, reason="this machine has one instruction set that multiplies and adds at once")
def test_fused_instruction_sets_give_the_same_bits() -> None:
    results = [everything(1, isa, slice(0, 64)) for isa in FUSED]
    for other in results[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_what_does_not_belong_together_is_refused(rounder: Rounder) -> None:
    grid = GridFormat(4, 32, True)
    scales, zeros = np.empty((2, 16), np.float32), np.empty((2, 16), np.float32)
    with pytest.raises(InputError, match="not float32"):
        rounder.fit_groups(grid, normal(1, 16, 64).astype(np.float64), np.ones(64, np.float32), scales, zeros)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not float32"):
        rounder.fit_groups(grid, normal(1, 16, 64), np.ones(32, np.float32), scales, zeros)
    with pytest.raises(InputError, match="side by side"):
        rounder.fit_groups(grid, normal(1, 64, 16).T, np.ones(64, np.float32), scales, zeros)
    prices = np.ones(64, np.float32)
    with pytest.raises(InputError, match="gaps"):
        rounder.fit_groups(grid, normal(1, 16, 64), prices, np.empty((2, 32), np.float32)[:, :16], zeros)
    with pytest.raises(InputError, match="15 rows of 64 columns"):
        rounder.fit_groups(grid, normal(1, 15, 64), prices, scales[:, :15].copy(), zeros[:, :15].copy())
    with pytest.raises(InputError, match="no grid of 8 bits"):
        rounder.fit_groups(GridFormat(8, 32, True), normal(1, 16, 64), np.ones(64, np.float32), scales, zeros)
    with pytest.raises(InputError, match="at most 1024 inner columns"):
        rounder.add_sparse_product(normal(1, 2, 1040), normal(2, 1040, 16), normal(3, 2, 16))
    inputs = descent_inputs(grid, 16, 256)
    with pytest.raises(InputError, match="16 rows of 256 columns"):
        visit(rounder, grid, inputs, fit=False, update=False)


def test_a_closed_rounder_says_so() -> None:
    closed = Rounder(1)
    closed.close()
    closed.close()
    with pytest.raises(Valley2Error, match="closed"):
        closed.add_sparse_product(normal(1, 2, 16), normal(2, 16, 16), normal(3, 2, 16))
