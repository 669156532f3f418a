"""Rows of a verification: one stage of one case, how far it is from the reference and how far it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RELATIVE_TOLERANCE = 1e-4
"""Largest error of features and embeddings: norm of the difference over norm of the reference."""
LOGIT_TOLERANCE = 5e-4
"""Largest absolute error of logits."""


@dataclass(frozen=True)
class Row:
    """The outcome of one comparison."""

    case: str
    stage: str
    error: float
    """Exact stages: how many elements differ. Others: relative by norm, or for logits absolute."""
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; a NaN is not."""
        return self.error <= self.tolerance


def compare_exact(case: str, stage: str, found: Array, expected: Array) -> Row:
    """Counts the elements that differ; arrays of different shapes differ wholly."""
    if found.shape != expected.shape:
        return Row(case, stage, math.inf, 0, _shapes(found, expected))
    return Row(case, stage, float(np.count_nonzero(found != expected)), 0)


def compare_values(case: str, stage: str, found: object, expected: object) -> Row:
    """Compares two plain values; the note shows them when they differ."""
    if found == expected:
        return Row(case, stage, 0, 0)
    return Row(case, stage, math.inf, 0, f"{_shorten(found)} instead of {_shorten(expected)}")


def compare_relative(
    case: str, stage: str, found: Array, expected: Array, tolerance: float = RELATIVE_TOLERANCE
) -> Row:
    """Norm of the difference over norm of the reference."""
    if found.shape != expected.shape:
        return Row(case, stage, math.inf, tolerance, _shapes(found, expected))
    reference = expected.astype(np.float64)
    difference = float(np.linalg.norm(found.astype(np.float64) - reference))
    scale = float(np.linalg.norm(reference))
    return Row(case, stage, difference / scale if scale > 0 else difference, tolerance)


def compare_absolute(case: str, stage: str, found: Array, expected: Array, tolerance: float = LOGIT_TOLERANCE) -> Row:
    """Largest absolute difference."""
    if found.shape != expected.shape:
        return Row(case, stage, math.inf, tolerance, _shapes(found, expected))
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return Row(case, stage, float(difference.max(initial=0)), tolerance)


def compare_rows(
    case: str, stage: str, found: Array, sums: Array, norms: Array, tolerance: float = RELATIVE_TOLERANCE
) -> Row:
    """Compares every row of an array with the sum and the norm of the reference's row.

    Args:
        case: Name of the case, for the row that is made.
        stage: Name of the stage, for the row that is made.
        found: (L, C).
        sums: (L,) of the reference.
        norms: (L,) of the reference.
        tolerance: Relative to the norm of each row.

    Returns:
        The largest error of any row. A sum of C differences is at most sqrt(C) times their norm, so it is divided
        by that.
    """
    if found.shape[:1] != sums.shape or sums.shape != norms.shape:
        return Row(case, stage, math.inf, tolerance, _shapes(found, sums))
    rows = found.astype(np.float64)
    scale = np.maximum(norms.astype(np.float64), np.finfo(np.float32).tiny)
    sum_error = np.abs(rows.sum(axis=1) - sums) / (scale * math.sqrt(found.shape[1]))
    norm_error = np.abs(np.linalg.norm(rows, axis=1) - norms) / scale
    return Row(case, stage, float(np.maximum(sum_error, norm_error).max(initial=0)), tolerance)


def compare_tokens(
    case: str, stage: str, found: list[int], expected: list[int], margins: list[float], logit_error: float
) -> Row:
    """Compares greedy tokens up to the first step that the measured error of the logits could decide.

    Args:
        case: Name of the case, for the row that is made.
        stage: Name of the stage, for the row that is made.
        found: Tokens chosen here, each after the reference's own earlier tokens.
        expected: The reference's tokens.
        margins: Its logits' margin between the first and the second at each step.
        logit_error: Largest absolute error of the logits.

    Returns:
        How many tokens differ among those that count.
    """
    decided = 0
    for margin in margins[: len(expected)]:
        if margin < 10 * logit_error:
            break
        decided += 1
    wrong = sum(1 for index in range(decided) if index >= len(found) or found[index] != expected[index])
    note = "" if decided == len(expected) else f"{decided} of {len(expected)} tokens have a margin that decides"
    return Row(case, stage, wrong, 0, note)


def _shapes(found: Array, expected: Array) -> str:
    return f"shape {found.shape} instead of {expected.shape}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
