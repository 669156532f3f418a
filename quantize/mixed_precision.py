"""Chooses a format for every matrix under a budget of bits, from what each format would cost its output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from valley2_edge.errors import BudgetError, ExportError
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.packing import PANEL, panel_count

_MOST_STEPS = 50_000  # steps of the budget; sizes that need finer steps are rounded up


def candidate_formats(symmetric: bool = False) -> tuple[MatrixFormat, ...]:
    """The formats that a matrix may get, the smallest first.

    Args:
        symmetric: Whether int4 has no zero points.
    """
    return (
        MatrixFormat("int4", 128, symmetric),
        MatrixFormat("int4", 64, symmetric),
        MatrixFormat("int4", 32, symmetric),
        MatrixFormat("int8", 128),
    )


def stored_bits(matrix_format: MatrixFormat, rows: int, columns: int) -> int:
    """Number of bits that a matrix takes in the bundle.

    Weights, scales, zero points and the rows that fill the last panel count.

    Args:
        matrix_format: The format, of any precision.
        rows: Number of output channels.
        columns: Number of input channels, a multiple of the group size.
    """
    group_bits = 16 + (8 if matrix_format.has_zeros else 0) if matrix_format.quantized else 0
    groups = columns // matrix_format.group_size
    return panel_count(rows) * PANEL * (columns * matrix_format.bits + groups * group_bits)


@dataclass(frozen=True)
class MatrixChoices:
    """One matrix, and what each format would cost it."""

    name: str
    rows: int
    columns: int
    losses: Mapping[MatrixFormat, float]
    """The loss in each format that is allowed: `MatrixRecord.output_loss` times the weight of this output."""


@dataclass(frozen=True)
class Allocation:
    """The chosen formats."""

    formats: dict[str, MatrixFormat]
    """The format of each matrix, by its name."""
    average_bits: float
    """Stored bits divided by the number of weights."""
    loss: float
    """Sum of the losses of all matrices."""


def allocate_formats(matrices: Sequence[MatrixChoices], average_bits: float) -> Allocation:
    """Chooses the formats with the smallest sum of losses whose average of stored bits is within the budget.

    A multiple-choice knapsack, solved by dynamic programming over the budget. Sizes are counted in their greatest
    common divisor, so the result is the best one; only where that makes more than 50000 steps are the sizes rounded up,
    and the result may miss the best one by as little.

    Args:
        matrices: All matrices that share the budget.
        average_bits: Largest average of stored bits (`stored_bits`) for a weight.

    Raises:
        BudgetError: Even the smallest formats need more.
        ExportError: A matrix has no format, or a loss is negative or not finite.
    """
    _check(matrices)
    options = [list(matrix.losses.items()) for matrix in matrices]
    bits = [
        [stored_bits(choice, matrix.rows, matrix.columns) for choice, _ in offered]
        for matrix, offered in zip(matrices, options, strict=True)
    ]
    weights = sum(matrix.rows * matrix.columns for matrix in matrices)
    smallest = sum(min(row) for row in bits)
    spare = math.floor(average_bits * weights) - smallest
    if spare < 0:
        raise BudgetError(
            f"{average_bits:g} bits a weight are too few: the smallest formats take {smallest / weights:.4f}"
        )
    extra = [[size - min(row) for size in row] for row in bits]
    chosen = _knapsack(extra, [[loss for _, loss in offered] for offered in options], spare)
    return Allocation(
        {matrix.name: offered[index][0] for matrix, offered, index in zip(matrices, options, chosen, strict=True)},
        sum(row[index] for row, index in zip(bits, chosen, strict=True)) / weights,
        math.fsum(offered[index][1] for offered, index in zip(options, chosen, strict=True)),
    )


def _check(matrices: Sequence[MatrixChoices]) -> None:
    if len({matrix.name for matrix in matrices}) != len(matrices) or not matrices:
        raise ExportError("formats are chosen for at least one matrix, and for each one once")
    for matrix in matrices:
        if not matrix.losses:
            raise ExportError(f"{matrix.name} has no format to choose from")
        for matrix_format, loss in matrix.losses.items():
            matrix_format.check_columns(matrix.name, matrix.columns)
            if not (math.isfinite(loss) and loss >= 0):
                raise ExportError(f"the loss of {matrix.name} is {loss}: a finite number from 0 up is expected")


def _knapsack(extra: list[list[int]], losses: list[list[float]], spare: int) -> list[int]:
    """Chooses an option of each matrix: the smallest total loss whose extra sizes sum to at most `spare`."""
    most = sum(max(row) for row in extra)
    spare = min(spare, most)
    unit = max(math.gcd(*(size for row in extra for size in row)), -(-spare // _MOST_STEPS), 1)
    steps = spare // unit
    best = torch.zeros(steps + 1, dtype=torch.float64)  # by the number of steps that may be used
    picks = torch.empty(len(extra), steps + 1, dtype=torch.uint8)
    for matrix, (sizes, costs) in enumerate(zip(extra, losses, strict=True)):
        totals = torch.full((len(sizes), steps + 1), math.inf, dtype=torch.float64)
        for option, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
            taken = -(-size // unit)
            if taken <= steps:
                totals[option, taken:] = best[: steps + 1 - taken] + cost
        best, pick = totals.min(dim=0)
        picks[matrix] = pick
    chosen = []
    for matrix in range(len(extra) - 1, -1, -1):
        option = int(picks[matrix, steps])
        chosen.append(option)
        steps -= -(-extra[matrix][option] // unit)
    return chosen[::-1]
