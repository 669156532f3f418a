"""What the vision encoder asks of a backend beside what the core calls (docs/backends.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from valley2_edge.runtime.core.backend import Backend, BackendComponent, BackendCost, BackendEngine
from valley2_edge.runtime.progress import ProgressCallback


class VisionBackend(ABC):
    """A backend of vision components. Where it raises EngineError, the core's own tower computes instead."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in messages."""

    @abstractmethod
    def open(self, component: BackendComponent) -> BackendEngine:
        """Opens a component, as `Backend.open` says.

        Raises:
            EngineError: It cannot compute the component here; the text is a part of a sentence.
        """

    @abstractmethod
    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What an engine takes, as `Backend.cost` says."""

    def start(self) -> None:  # noqa: B027
        """Finds what the backend needs on this machine, before components are opened; may be called again.

        Raises:
            EngineError: It is not there; the text is a part of a sentence.
        """

    def prepare(  # noqa: B027
        self, component: BackendComponent, rows: int, report: ProgressCallback, stopped: Callable[[], bool]
    ) -> None:
        """Makes an open component ready for inputs of so many tiles or patches.

        Args:
            component: siglip, projector or eagle.
            rows: Tiles or patches of the largest input.
            report: Told how far that is, where it takes long.
            stopped: Asked between two steps; True ends it.

        Raises:
            EngineError: It cannot compute them here; the text is a part of a sentence.
            Cancelled: `stopped` said so.
        """

    def computed_by(self, component: BackendComponent) -> list[str]:
        """What computes an open component, in words for people, the most important first."""
        return [self.name]

    def stop(self) -> None:  # noqa: B027
        """Gives back what `start` found; no component is open any more."""


class PlainBackend(VisionBackend):
    """A backend that can do no more than the core calls.

    Args:
        backend: What computes.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def name(self) -> str:
        """The backend's own."""
        return self._backend.name

    def open(self, component: BackendComponent) -> BackendEngine:
        """Opens a component."""
        return self._backend.open(component)

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What an engine takes."""
        return self._backend.cost(component, count, positions)
