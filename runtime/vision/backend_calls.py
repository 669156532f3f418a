"""A backend of vision components as the core's encoder calls it: what it needs is found, and engines are made ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from valley2_edge.bundle import Bundle
from valley2_edge.errors import Cancelled
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.cancellation import CancelToken, run_until_cancelled
from valley2_edge.runtime.core.backend import (
    COMPONENT_NAMES,
    BackendCalls,
    BackendComponent,
    BackendEngine,
    BackendTable,
)
from valley2_edge.runtime.core.vision_backend import VisionBackend
from valley2_edge.runtime.vision.engine_choice import vision_backend


class VisionTable:
    """A backend of vision components as the core calls it.

    Args:
        backend: What computes. This object must outlive everything that the core has opened with it.
    """

    def __init__(self, backend: VisionBackend) -> None:
        self.name = backend.name
        self.calls = VisionBackendCalls(backend)
        self.table = BackendTable(backend, self.calls)

    @classmethod
    def of(cls, bundle: Bundle, options: LoadOptions) -> VisionTable | None:
        """The backend that the options of loading name; None: the core computes."""
        backend = vision_backend(bundle, options)
        return None if backend is None else cls(backend)


class VisionBackendCalls(BackendCalls):
    """What the functions of a table of vision components do.

    Args:
        backend: What computes.
    """

    def __init__(self, backend: VisionBackend) -> None:
        super().__init__(backend)
        self._vision = backend
        self._calls = threading.local()
        """As `token`: what ends the call that a thread makes by itself."""
        self.answers = AnswersInProgress()
        self._components: dict[Any, BackendComponent] = {}
        """The components of the engines by the handles under which the core knows them."""
        self.computed_by: dict[str, list[str]] = {}
        """What computes each component that was made ready so far, in words for people."""

    @contextmanager
    def ended_by(self, token: CancelToken) -> Iterator[None]:
        """For the length of a block the token ends what this thread waits for."""
        before, self._calls.token = self._token, token
        try:
            yield
        finally:
            self._calls.token = before

    @property
    def _token(self) -> CancelToken:
        found: CancelToken = getattr(self._calls, "token", self.answers)
        return found

    @property
    def functions(self) -> dict[str, Callable[..., None]]:
        """Those of every backend, and what comes before a run."""
        return {**super().functions, "start": self.start, "prepare": self.prepare}

    @property
    def notices(self) -> dict[str, Callable[..., None]]:
        """Those of every backend, and the end."""
        return {**super().notices, "stop": self.stop}

    def open_engine(self, component: BackendComponent) -> BackendEngine:
        """Opens a component; a graph takes seconds to load and cannot be told to stop, so that a cancel leaves it."""
        opening = _Opening(self._vision, component)
        return run_until_cancelled(opening.open, self._token, opening.leave)

    def open(self, user_data: Any, component: int, engine: Any) -> None:
        """v2e_backend.open."""
        super().open(user_data, component, engine)
        self._components[engine[0]] = COMPONENT_NAMES[component]

    def start(self, _user_data: Any) -> None:
        """v2e_backend.start."""
        self._vision.start()

    def stop(self, _user_data: Any) -> None:
        """v2e_backend.stop."""
        self._vision.stop()

    def prepare(self, engine: Any, count: int, progress: Any, context: Any) -> None:
        """v2e_backend.prepare."""
        component = self._components[engine]

        def report(_stage: str, done: int, total: int) -> None:
            progress(context, done, total)

        self._vision.prepare(component, count, report, lambda: progress(context, 0, 0) != 0)
        self.computed_by[component] = self._vision.computed_by(component)


class AnswersInProgress(CancelToken):
    """Ends what the thread of the model's answers waits for, once nobody waits for any of them any more.

    The core does not say for which of them a component is opened. With one answer at a time that is no question; while
    another one goes on, an answer that was cancelled waits for what is being opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended: list[Callable[[], bool]] = []

    @contextmanager
    def reading(self, ended: Callable[[], bool]) -> Iterator[None]:
        """For the length of a block an answer is read; `ended` says whether anybody still waits for it."""
        self._ended.append(ended)
        try:
            yield
        finally:
            self._ended.remove(ended)

    def check(self) -> None:
        """Raises Cancelled when nobody waits."""
        answers = list(self._ended)
        if answers and all(ended() for ended in answers):
            raise Cancelled("The answer was cancelled.")


class _Opening:
    """An engine that is being opened, and is closed again when nobody waits for it any more."""

    def __init__(self, backend: VisionBackend, component: BackendComponent) -> None:
        self._backend = backend
        self._component = component
        self._lock = threading.Lock()
        self._engine: BackendEngine | None = None
        self._left = False

    def open(self) -> BackendEngine:
        engine = self._backend.open(self._component)
        with self._lock:
            self._engine = engine
            left = self._left
        if left:
            engine.close()
        return engine

    def leave(self) -> None:
        with self._lock:
            self._left = True
            engine = self._engine
        if engine is not None:
            engine.close()
