"""Formats under a budget of bits, against every combination."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from quantize_inputs import gaussian

from valley2_edge.errors import BudgetError, ExportError
from valley2_edge.quantize import mixed_precision, packing
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.mixed_precision import MatrixChoices, allocate_formats, candidate_formats, stored_bits
from valley2_edge.quantize.rtn import quantize_rows

FORMATS = candidate_formats()


def _matrices(count: int, seed: int = 0) -> list[MatrixChoices]:
    """Matrices of the shapes of a decoder's layer, whose losses fall with more bits, each at its own height."""
    shapes = [(640, 512), (512, 512), (2816, 512), (512, 1408)]
    heights = torch.exp(2 * torch.randn(count, generator=torch.Generator().manual_seed(seed))).tolist()
    falls = (1.0, 0.8, 0.6, 0.006)
    return [
        MatrixChoices(
            f"m{index}",
            *shapes[index % 4],
            {choice: height * fall for choice, fall in zip(FORMATS, falls, strict=True)},
        )
        for index, height in enumerate(heights)
    ]


def _average(matrices: list[MatrixChoices], choices: tuple[MatrixFormat, ...]) -> float:
    bits = sum(stored_bits(choice, m.rows, m.columns) for m, choice in zip(matrices, choices, strict=True))
    return bits / sum(m.rows * m.columns for m in matrices)


@pytest.mark.parametrize("matrix_format", [*FORMATS, *candidate_formats(symmetric=True)])
@pytest.mark.parametrize("rows", [64, 70])
def test_stored_bits_are_those_of_the_tensors(matrix_format: MatrixFormat, rows: int) -> None:
    quantized = quantize_rows(gaussian(rows, 256), matrix_format, "m")
    pack = packing.pack_int8 if matrix_format.precision == "int8" else lambda v: packing.pack_int4(v, padding=8)
    tensors = [pack(quantized.values), packing.pack_groups(quantized.scales)]
    if quantized.zeros is not None:
        tensors.append(packing.pack_groups(quantized.zeros))
    assert stored_bits(matrix_format, rows, 256) == 8 * sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("average_bits", [4.2, 4.5, 5.0, 5.77, 7.5, 8.2])
def test_it_is_the_best_of_all_combinations(average_bits: float) -> None:
    matrices = _matrices(5)
    best = min(
        sum(matrix.losses[choice] for matrix, choice in zip(matrices, choices, strict=True))
        for choices in itertools.product(FORMATS, repeat=5)
        if _average(matrices, choices) <= average_bits
    )
    allocation = allocate_formats(matrices, average_bits)
    assert allocation.loss == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("average_bits", [4.19, 4.4, 5.0, 6.0, 9.0])
def test_the_budget_is_kept_and_used(average_bits: float) -> None:
    matrices = _matrices(113)
    allocation = allocate_formats(matrices, average_bits)
    choices = tuple(allocation.formats[matrix.name] for matrix in matrices)
    assert allocation.average_bits == pytest.approx(_average(matrices, choices), rel=1e-12)
    assert allocation.average_bits <= average_bits
    assert allocation.average_bits > min(average_bits, 8.125) - 0.05
    assert allocation.loss == pytest.approx(
        math.fsum(m.losses[c] for m, c in zip(matrices, choices, strict=True)), rel=1e-12
    )


def test_more_bits_never_cost_more() -> None:
    losses = [allocate_formats(_matrices(40), bits).loss for bits in (4.2, 4.3, 4.6, 5.0, 5.5, 6.5, 8.2)]
    assert losses == sorted(losses, reverse=True)


def test_sensitive_matrices_get_the_bits() -> None:
    matrices = [MatrixChoices(f"m{i}", 512, 512, dict.fromkeys(FORMATS, 0.0)) for i in range(8)]
    falling = dict(zip(FORMATS, (1.0, 0.8, 0.6, 0.01), strict=True))
    matrices[3] = MatrixChoices("m3", 512, 512, falling)
    allocation = allocate_formats(matrices, 4.8)
    assert allocation.formats["m3"].precision == "int8"


def test_sizes_too_fine_to_count_singly_still_keep_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = _matrices(30)
    exact = allocate_formats(matrices, 5.0)
    monkeypatch.setattr(mixed_precision, "_MOST_STEPS", 500)
    rounded = allocate_formats(matrices, 5.0)
    assert rounded.average_bits <= 5.0
    assert exact.loss <= rounded.loss <= 1.2 * exact.loss


def test_a_budget_below_the_smallest_formats_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"4\.1 bits a weight are too few: the smallest formats take 4\.1875"):
        allocate_formats(_matrices(5), 4.1)


def test_losses_that_make_no_sense_are_refused() -> None:
    for loss in (-1.0, math.nan, math.inf):
        with pytest.raises(ExportError, match="the loss of m"):
            allocate_formats([MatrixChoices("m", 64, 128, {FORMATS[0]: loss})], 8)
    with pytest.raises(ExportError, match="no format to choose"):
        allocate_formats([MatrixChoices("m", 64, 128, {})], 8)
    with pytest.raises(ExportError, match="each one once"):
        allocate_formats([MatrixChoices("m", 64, 128, {FORMATS[0]: 1.0})] * 2, 8)
    with pytest.raises(ExportError, match="at least one matrix"):
        allocate_formats([], 8)
