"""A backend of vision components as a program would write it, and what it was asked for."""

from __future__ import annotations

import threading

from valley2_edge.errors import Cancelled
from valley2_edge.runtime.core.backend import BackendCost, BackendRun


class FakeEngine:
    """Computes `value` everywhere."""

    def __init__(self, backend: FakeBackend, component: str) -> None:
        self.backend, self.component = backend, component
        self.cancelled = threading.Event()

    def run(self, call: BackendRun) -> None:
        self.backend.runs.append((self.component, call.values.shape))
        if self.backend.waits:
            assert self.cancelled.wait(20)
            raise Cancelled("as it was told")
        if self.backend.trouble is not None:
            raise self.backend.trouble
        call.output[:] = self.backend.value

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.backend.open_components.remove(self.component)


class FakeBackend:
    """A backend as a program would write it."""

    name = "fake"

    def __init__(self) -> None:
        self.value = 0.25
        self.trouble: Exception | None = None
        self.waits = False
        self.runs: list[tuple[str, tuple[int, ...]]] = []
        self.open_components: list[str] = []

    def open(self, component: str) -> FakeEngine:
        self.open_components.append(component)
        return FakeEngine(self, component)

    def cost(self, component: str, count: int, positions: int) -> BackendCost:
        sizes = {"siglip": 1000, "projector": 100, "eagle": 10}
        return BackendCost(weight_bytes=sizes[component] << 20, work_bytes=count << 10)
