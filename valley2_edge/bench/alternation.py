"""Times of a piece of work, each with a limit of the machine that was measured in alternation with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from valley2_edge.runtime.core.probe import LimitName, Probe

Pause = Callable[[], None]
"""Called by the work where it can be interrupted: the limit is measured there, too, and the clock stands still."""
Work = Callable[[Pause], object]

RateName = Literal["gops", "gflops", "gb_per_s"]
FractionName = Literal["fraction_of_peak", "fraction_of_bandwidth"]
_NAMES: dict[LimitName, tuple[RateName, FractionName]] = {
    "int8": ("gops", "fraction_of_peak"),
    "fp32": ("gflops", "fraction_of_peak"),
    "fp16": ("gflops", "fraction_of_peak"),
    "read": ("gb_per_s", "fraction_of_bandwidth"),
}
_GIGA = 1e9


@dataclass(frozen=True)
class Sample:
    """What one repetition of the work took."""

    seconds: float
    """Seconds that the work alone took."""
    limit: float
    """Mean of what was measured before, in the pauses and after, in operations or bytes a second."""


@dataclass(frozen=True)
class Spread:
    """Where the middle half of some values lies."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        lower, middle, upper = np.percentile(values, (25, 50, 75)).tolist()
        return cls(middle, lower, upper)

    def as_json(self, name: str) -> dict[str, object]:
        """The median under a name, the quartiles under another."""
        return {name: self.median, f"{name}_quartiles": [self.lower_quartile, self.upper_quartile]}


@dataclass
class Limits:
    """The machine's limits as they were measured in the course of a run."""

    probe: Probe
    readings: dict[LimitName, list[float]] = field(default_factory=dict)

    def read(self, limit: LimitName) -> float:
        """Measures a limit and keeps it."""
        value = self.probe.read(limit)
        self.readings.setdefault(limit, []).append(value)
        return value

    def typical(self, limit: LimitName) -> float:
        """The median of all readings; measured now when there is none."""
        if limit not in self.readings:
            self.read(limit)
        return statistics.median(self.readings[limit])

    def medians(self) -> dict[LimitName, float]:
        """The median of each limit that was read so far."""
        return {limit: statistics.median(values) for limit, values in self.readings.items()}

    def sample(self, limit: LimitName, work: Work) -> Sample:
        """Does the work once.

        Args:
            limit: Name of the machine's limit that bounds the work.
            work: May call the pause that it is given.
        """
        readings = [self.read(limit)]
        paused = 0.0

        def pause() -> None:
            nonlocal paused
            begin = time.perf_counter()
            readings.append(self.read(limit))
            paused += time.perf_counter() - begin

        begin = time.perf_counter()
        work(pause)
        seconds = time.perf_counter() - begin - paused
        readings.append(self.read(limit))
        return Sample(seconds, statistics.fmean(readings))


@dataclass(frozen=True)
class Measurement:
    """The repetitions of one piece of work."""

    unit: str
    """What is counted: tokens, tiles or patches."""
    amount: float
    """Units of one repetition."""
    work: float
    """Operations or bytes of one repetition."""
    limit: LimitName
    """Name of the machine's limit that bounds the work."""
    samples: tuple[Sample, ...]
    facts: dict[str, int]
    """What else describes the work, by name."""

    @property
    def seconds(self) -> Spread:
        """Seconds of one repetition."""
        return Spread.of([sample.seconds for sample in self.samples])

    @property
    def speed(self) -> Spread:
        """Units a second."""
        return Spread.of([self.amount / sample.seconds for sample in self.samples])

    @property
    def rate(self) -> Spread:
        """Operations or bytes a second."""
        return Spread.of([self.work / sample.seconds for sample in self.samples])

    @property
    def fraction(self) -> Spread:
        """Share of the machine's limit at that moment that the work reached."""
        return Spread.of([self.work / sample.seconds / sample.limit for sample in self.samples])

    def as_json(self) -> dict[str, object]:
        """The measurement under the names of docs/performance.md."""
        rate_name, fraction_name = _NAMES[self.limit]
        return {
            **self.speed.as_json(f"{self.unit}_per_s"),
            **self.fraction.as_json(fraction_name),
            rate_name: self.rate.median / _GIGA,
            **self.seconds.as_json("seconds"),
            **self.facts,
        }
