"""How long a computation of known size will still take, judged by what its parts took so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class WorkMeter:
    """Counts work by kind: the speed of each kind is measured apart, because they differ by a factor of ten.

    Args:
        planned: Work of each kind in all, in a unit of the caller's choice, for example multiplications.
        look: Called before every block that is measured; what it raises stops the work.
    """

    def __init__(self, planned: Mapping[str, float], look: Callable[[], None] = lambda: None) -> None:
        self._planned = dict(planned)
        self._look = look
        self._done: dict[str, float] = defaultdict(float)
        self._measured: dict[str, float] = defaultdict(float)
        """Work that was done while the meter watched."""
        self.seconds: dict[str, float] = defaultdict(float)
        """Spent on each kind so far."""
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        """Of all threads of the process; what other programs take of a busy machine is not in them."""

    def skip(self, kind: str, work: float) -> None:
        """Counts work that an earlier run has done."""
        self._done[kind] += work

    @contextmanager
    def measured(self, kind: str, work: float) -> Iterator[None]:
        """Counts the work of a block and the time that it takes."""
        self._look()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[kind] += time.perf_counter() - begin
        self.cpu_seconds[kind] += time.process_time() - begin_cpu
        self._measured[kind] += work
        self._done[kind] += work

    def remaining_seconds(self) -> float | None:
        """Of the work that is left; None before anything was measured.

        A kind that has not been measured yet is taken to be as fast as all measured work together.
        """
        total = sum(self._measured.values())
        if total <= 0:
            return None
        average = sum(self.seconds.values()) / total
        left = 0.0
        for kind, planned in self._planned.items():
            measured = self._measured[kind]
            rate = self.seconds[kind] / measured if measured > 0 else average
            left += max(0.0, planned - self._done[kind]) * rate
        return left
