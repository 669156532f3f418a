"""Times, the limits around them, and what follows from both."""

from __future__ import annotations

import time
from typing import cast

import pytest

from valley2_edge.bench.alternation import Limits, Measurement, Sample, Spread
from valley2_edge.runtime.core.probe import LimitName, Probe


class SlowProbe:
    """Readings of 1, 2, 3 ... that take a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.count = 0

    def read(self, limit: LimitName) -> float:
        time.sleep(self.seconds)
        self.count += 1
        return float(self.count)


def limits_of(probe: SlowProbe) -> Limits:
    return Limits(cast(Probe, probe))


def test_limit_of_a_sample_is_the_mean_of_what_was_read_around_it() -> None:
    limits = limits_of(SlowProbe())
    assert limits.sample("int8", lambda pause: None).limit == 1.5
    assert limits.sample("int8", lambda pause: [pause(), pause()]).limit == (3 + 4 + 5 + 6) / 4


def test_clock_stands_still_in_the_pauses() -> None:
    sample = limits_of(SlowProbe(0.2)).sample("read", lambda pause: [pause() for _ in range(3)])
    assert 0 <= sample.seconds < 0.2


def test_typical_limit_is_the_median_of_all_readings() -> None:
    limits = limits_of(SlowProbe())
    assert limits.typical("fp32") == 1.0  # the first reading, made for it
    limits.sample("fp32", lambda pause: None)
    assert limits.typical("fp32") == 2.0


def test_spread_of_one_value_is_that_value() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)


def test_spread_names_the_middle_half() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)


def test_measurement_divides_amount_and_work_by_time_and_limit() -> None:
    samples = (Sample(2.0, 100.0), Sample(4.0, 100.0), Sample(8.0, 50.0))
    content = Measurement("tokens", 16.0, 80.0, "read", samples, {"context": 7}).as_json()
    assert content["tokens_per_s"] == 4.0
    assert content["tokens_per_s_quartiles"] == [3.0, 6.0]
    assert content["gb_per_s"] == pytest.approx(20e-9)
    assert content["fraction_of_bandwidth"] == pytest.approx(0.2)
    assert content["seconds"] == 4.0
    assert content["context"] == 7


def test_arithmetic_is_held_against_a_peak() -> None:
    content = Measurement("tiles", 1.0, 10.0, "fp32", (Sample(1.0, 20.0),), {}).as_json()
    assert content["fraction_of_peak"] == 0.5
    assert content["gflops"] == pytest.approx(1e-8)
