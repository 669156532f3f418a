"""How a long export is watched and stopped: progress reports, and cancellation from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from valley2_edge.errors import Cancelled
from valley2_edge.runtime.cancellation import CancelToken

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the number of finished steps, and the number of all steps."""
Announce = Callable[[str], None]
"""Called with a sentence for the user."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The Progress of a caller that wants none."""


def no_announcement(sentence: str) -> None:
    """The Announce of a caller that wants none."""


class ExportControl(CancelToken):
    """Stops one export from another thread, and says what is kept of it; every method may be called from any thread.

    `cancel` makes the export raise Cancelled the next time that it checks. `abandon` is for a process that is about to
    end and cannot wait for a matrix product of some seconds: from then on the export finishes nothing more.
    """

    def __init__(self) -> None:
        super().__init__()
        self._gate = threading.Lock()
        self._tidy: Callable[[], None] = lambda: None
        self._output: Path | None = None
        self._partial: Path | None = None
        self._published = False
        self._components: list[str] = []
        self._layers = ""

    def check(self) -> None:
        """Raises Cancelled when the export was stopped."""
        if self.cancelled:
            raise Cancelled("the export was stopped")

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Surrounds the short moment in which a piece of work becomes finished; `abandon` waits for its end.

        Raises:
            Cancelled: The export was stopped.
        """
        with self._gate:
            self.check()
            yield

    def abandon(self) -> None:
        """Stops the export for good: when this returns, nothing that runs can still become finished."""
        self.cancel()
        self._gate.acquire()

    def tidy(self) -> None:
        """Removes what a later run cannot use; to be called after `abandon`."""
        self._tidy()

    def outcome(self) -> str:
        """Says in words what is left after the export was stopped, and what to do to go on."""
        if self._published:
            return f"{self._output} is complete"
        kept = [*self._components, *([self._layers] if self._layers else [])]
        if not kept:
            return "nothing is kept"
        names = " and ".join([", ".join(kept[:-1]), kept[-1]] if kept[1:] else kept)
        verb = "are" if kept[1:] or self._layers else "is"
        return f"{names} {verb} kept in {self._partial}; run the same command again to go on"

    def note_place(self, output: Path, partial: Path, tidy: Callable[[], None]) -> None:
        """Notes where the result will be, where it is being made, and which function removes what is left there."""
        self._output, self._partial, self._tidy = output, partial, tidy

    def note_components(self, names: list[str]) -> None:
        """Notes which components are finished; the layers that led to the last of them are no longer reported."""
        self._components, self._layers = list(names), ""

    def note_layers(self, done: int, total: int) -> None:
        """Notes how many layers of the component that is being made are finished."""
        self._layers = f"{done} of {total} layers" if done else ""

    def note_published(self) -> None:
        """Notes that the result has its final name."""
        self._published = True


def cancelling_progress(control: ExportControl, progress: Progress) -> Progress:
    """A progress callback that also stops the export: it raises Cancelled when it is called after `cancel`.

    Args:
        control: The control of the export.
        progress: The callback that receives the reports.
    """

    def tell(stage: str, done: int, total: int) -> None:
        control.check()
        progress(stage, done, total)

    return tell
