"""Estimates how long a computation of known size will still take, from the time that its parts took so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class WorkMeter:
    """Counts work by kind; the speed of each kind is measured separately, because they differ by a factor of ten.

    Args:
        planned: All work of each kind, in a unit of the caller's choice, for example multiplications.
        check: Called before every block that is measured; what it raises stops the work.
    """

    def __init__(self, planned: Mapping[str, float], check: Callable[[], None] = lambda: None) -> None:
        self._planned = dict(planned)
        self._check = check
        self._done: dict[str, float] = defaultdict(float)
        self._measured: dict[str, float] = defaultdict(float)
        """Work of each kind that was done inside of `measured`."""
        self.seconds: dict[str, float] = defaultdict(float)
        """Seconds of wall time that each kind took so far."""
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        """Seconds of processor time that each kind took, summed over all threads of the process."""

    def skip(self, kind: str, work: float) -> None:
        """Counts work that an earlier run has done.

        Args:
            kind: The kind of work.
            work: The amount, in the unit of `planned`.
        """
        self._done[kind] += work

    @contextmanager
    def measured(self, kind: str, work: float) -> Iterator[None]:
        """Surrounds a piece of work, and counts it and the time that it takes.

        Args:
            kind: The kind of work.
            work: The amount, in the unit of `planned`.
        """
        self._check()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[kind] += time.perf_counter() - begin
        self.cpu_seconds[kind] += time.process_time() - begin_cpu
        self._measured[kind] += work
        self._done[kind] += work

    def remaining_work(self) -> dict[str, float]:
        """The amount of each kind that is not done, in the unit of `planned`."""
        return {kind: max(0.0, planned - self._done[kind]) for kind, planned in self._planned.items()}

    def remaining_seconds(self) -> float | None:
        """Estimates how many seconds the rest will take; None before anything was measured.

        A kind that has not been measured yet is assumed to be as fast as the measured work on average.
        """
        total = sum(self._measured.values())
        if total <= 0:
            return None
        average = sum(self.seconds.values()) / total
        left = 0.0
        for kind, work in self.remaining_work().items():
            measured = self._measured[kind]
            rate = self.seconds[kind] / measured if measured > 0 else average
            left += work * rate
        return left
