"""Intervals of 95 %."""

from __future__ import annotations

import numpy as np
import pytest

from valley2_edge.errors import InputError
from valley2_edge.eval.intervals import Estimate, bootstrap_percentiles, bootstrap_ratio, mean_of, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(successes: int, count: int, low: float, high: float) -> None:
    found = wilson(successes, count)
    assert found.value == successes / count
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_is_symmetric_and_stays_within_0_and_1() -> None:
    all_right, all_wrong = wilson(20, 20), wilson(0, 20)
    assert (all_right.low, all_right.high) == pytest.approx((1 - all_wrong.high, 1.0))
    assert all_wrong.low == 0.0 and all_right.high == 1.0


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_share(successes: int, count: int) -> None:
    with pytest.raises(InputError, match="no share"):
        wilson(successes, count)


def test_mean_of_one_is_itself() -> None:
    assert mean_of([Estimate(0.5, 0.4, 0.7)]) == Estimate(0.5, pytest.approx(0.4), pytest.approx(0.7))


def test_mean_weighs_alike_and_its_interval_shrinks_with_the_root() -> None:
    found = mean_of([Estimate(0.2, 0.1, 0.4)] * 4 + [Estimate(0.6, 0.5, 0.8)] * 5)
    assert found.value == pytest.approx((0.8 + 3.0) / 9)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((0.1 / 3, 0.2 / 3))


def test_interval_of_the_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    shares, covered = np.array([0.02, 0.3, 0.5, 0.9, 0.98]), 0
    for _ in range(1000):
        found = mean_of([wilson(int(right), 50) for right in random.binomial(50, shares)])
        covered += found.low <= shares.mean() <= found.high
    assert 920 <= covered <= 985


def test_mean_of_nothing() -> None:
    with pytest.raises(InputError):
        mean_of([])


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    found = bootstrap_ratio(values, np.ones(400))
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_bootstrap_is_of_the_sums() -> None:
    assert bootstrap_ratio([1, 0], [1, 9]).value == 0.1


def test_bootstrap_repeats_itself() -> None:
    assert bootstrap_ratio([1, 0, 1], [1, 1, 1], seed=3) == bootstrap_ratio([1, 0, 1], [1, 1, 1], seed=3)


def test_bootstrap_survives_units_of_size_0() -> None:
    found = bootstrap_ratio([0, 1], [0, 2])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("amounts", "sizes"), [([], []), ([1], [0]), ([1, 2], [1])])
def test_bootstrap_refuses_what_is_no_ratio(amounts: list[float], sizes: list[float]) -> None:
    with pytest.raises(InputError):
        bootstrap_ratio(amounts, sizes)


def test_percentiles_are_those_of_all_values() -> None:
    groups = [np.random.default_rng(seed).normal(size=size) for seed, size in enumerate((5, 0, 17, 1))]
    found = bootstrap_percentiles(groups, (50, 90, 99, 100))
    wanted = np.percentile(np.concatenate(groups), (50, 90, 99, 100), method="inverted_cdf")
    assert [one.value for one in found] == list(wanted)
    assert all(one.low <= one.value <= one.high for one in found)


def test_percentiles_of_whole_groups_that_are_drawn_anew() -> None:
    groups = [np.random.default_rng(seed).normal(seed, 1, 30) for seed in range(8)]
    random = np.random.default_rng(5)
    drawn = [np.concatenate([groups[place] for place in random.integers(0, 8, 8)]) for _ in range(2000)]
    wanted = np.percentile([np.percentile(values, 90, method="inverted_cdf") for values in drawn], (2.5, 97.5))
    (found,) = bootstrap_percentiles(groups, (90,), seed=5)
    assert [found.low, found.high] == list(wanted)


def test_the_interval_of_a_median_agrees_with_its_normal_theory() -> None:
    values = np.random.default_rng(2).normal(size=900)
    (found,) = bootstrap_percentiles([np.array([value]) for value in values], (50,))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(np.pi / 2) / 30, rel=0.25)


@pytest.mark.parametrize(("groups", "percent"), [([], 50), ([np.empty(0)], 50), ([np.ones(2)], 0), ([np.ones(2)], 101)])
def test_percentiles_refuse_what_has_none(groups: list[np.ndarray], percent: float) -> None:
    with pytest.raises(InputError):
        bootstrap_percentiles(groups, (percent,))
