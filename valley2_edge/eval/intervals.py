"""Intervals of 95 %: how far a measured number may be from the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError

_NORMAL_QUANTILE = 1.959963984540054
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A measured value, and the interval of 95 % around it."""

    value: float
    low: float
    high: float


def wilson(successes: int, count: int) -> Estimate:
    """The share of successes with its score interval.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Raises:
        InputError: There is no trial, or there are more successes than trials.
    """
    if not 0 <= successes <= count or count < 1:
        raise InputError(f"{successes} of {count} is no share.")
    share, square = successes / count, _NORMAL_QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(share * (1 - share) / count + square / (4 * count**2)) * _NORMAL_QUANTILE / (1 + square / count)
    # At the ends rounding would put a limit a hair beyond the share itself.
    return Estimate(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean of independent estimates.

    Its interval is propagated from theirs: the distances of the limits add up as squares, which, other than a variance,
    stays honest where a share is 0 or 1.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", 2008.

    Raises:
        InputError: There is none.
    """
    if not estimates:
        raise InputError("The mean of nothing was asked for.")
    count = len(estimates)
    mean = sum(estimate.value for estimate in estimates) / count
    below = math.sqrt(sum((estimate.value - estimate.low) ** 2 for estimate in estimates)) / count
    above = math.sqrt(sum((estimate.high - estimate.value) ** 2 for estimate in estimates)) / count
    return Estimate(mean, mean - below, mean + above)


def bootstrap_ratio(amounts: npt.ArrayLike, sizes: npt.ArrayLike, seed: int = 0) -> Estimate:
    """The sum of amounts over the sum of sizes, both given for each unit, as errors and characters of each question.

    The units are drawn anew with replacement 2000 times; the interval goes from the 2.5th to the 97.5th percentile.

    Args:
        amounts: (n,).
        sizes: (n,), not all of them 0.
        seed: Random seed of the draws.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.

    Raises:
        InputError: The lengths differ, or the sizes add up to nothing.
    """
    above, below = np.asarray(amounts, np.float64), np.asarray(sizes, np.float64)
    if above.ndim != 1 or above.shape != below.shape or below.sum() <= 0:
        raise InputError("A ratio needs an amount and a size for each unit, and sizes that are not all 0.")
    drawn = np.random.default_rng(seed).integers(0, len(above), (_RESAMPLES, len(above)))
    tops, bottoms = above[drawn].sum(axis=1), below[drawn].sum(axis=1)  # (resamples,)
    ratios = tops[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def bootstrap_percentiles(
    groups: Sequence[npt.NDArray[np.float64]], percents: Sequence[float], seed: int = 0
) -> list[Estimate]:
    """Percentiles of all values, which lie in groups: the tokens of each window, for example.

    A percentile is the smallest value that at least so many per cent of all values do not exceed. Whole groups are
    drawn anew, as in `bootstrap_ratio`, because values of one group are alike.

    Args:
        groups: Each (n,) float64; n may be 0, but not in all of them.
        percents: Above 0 and at most 100.
        seed: Random seed of the draws.

    Returns:
        An estimate for each of the percents. The limits of percents near 100 are too narrow: no draw holds a value
        larger than the largest one.

    Raises:
        InputError: There is no value, or a percent is out of range.
    """
    values = np.concatenate(groups) if groups else np.empty(0)
    if not len(values) or not all(0 < percent <= 100 for percent in percents):
        raise InputError("A percentile needs values, and per cents above 0 up to 100.")
    order = np.argsort(values, kind="stable")
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[order]
    shares = np.asarray(percents, np.float64) / 100

    def percentiles(times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The percentiles when each group is there so many times, (groups,)."""
        reached = np.cumsum(times[group_of])  # (n,): how many values there are up to each
        wanted = np.ceil(shares * reached[-1] * (1 - 1e-12))
        found: npt.NDArray[np.float64] = values[order[np.searchsorted(reached, wanted)]]
        return found

    random = np.random.default_rng(seed)
    draws = (random.integers(0, len(groups), len(groups)) for _ in range(_RESAMPLES))
    counts = (np.bincount(draw, minlength=len(groups)) for draw in draws)
    drawn = np.array([percentiles(times) for times in counts if times[group_of].any()])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    whole = percentiles(np.ones(len(groups), np.int64))
    return [Estimate(*map(float, limits)) for limits in zip(whole, low, high, strict=True)]
