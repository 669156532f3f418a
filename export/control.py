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
    """Belongs to one export; legal to use from any thread.

    `cancel` makes the export raise Cancelled at its next look. `abandon` is for a process that is about to end and
    cannot wait for a matrix product of some seconds: from then on the export finishes nothing more.
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
        """Surrounds each step that makes something finished, which is short: `abandon` waits for its end.

        Raises:
            Cancelled: The export was stopped.
        """
        with self._gate:
            self.check()
            yield

    def abandon(self) -> None:
        """Stops the export for good: no step that makes something finished runs any more when this returns."""
        self.cancel()
        self._gate.acquire()

    def tidy(self) -> None:
        """After `abandon`: removes what a later run cannot use."""
        self._tidy()

    def outcome(self) -> str:
        """What is there after the export was stopped, in words, and what to do to go on."""
        if self._published:
            return f"{self._output} is complete"
        kept = [*self._components, *([self._layers] if self._layers else [])]
        if not kept:
            return "nothing is kept"
        names = " and ".join([", ".join(kept[:-1]), kept[-1]] if kept[1:] else kept)
        verb = "are" if kept[1:] or self._layers else "is"
        return f"{names} {verb} kept in {self._partial}; run the same command again to go on"

    def note_place(self, output: Path, partial: Path, tidy: Callable[[], None]) -> None:
        """Says where the outcome will be, where it is made, and how the latter is tidied up."""
        self._output, self._partial, self._tidy = output, partial, tidy

    def note_components(self, names: list[str]) -> None:
        """Says which components are finished; layers that led to the last of them count no more."""
        self._components, self._layers = list(names), ""

    def note_layers(self, done: int, total: int) -> None:
        """Says how many layers of the component that is being made are finished."""
        self._layers = f"{done} of {total} layers" if done else ""

    def note_published(self) -> None:
        """Says that the outcome is there under its final name."""
        self._published = True


def looking(control: ExportControl, progress: Progress) -> Progress:
    """The same progress, which raises Cancelled when it is told something after the export was stopped."""

    def tell(stage: str, done: int, total: int) -> None:
        control.check()
        progress(stage, done, total)

    return tell
