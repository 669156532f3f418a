"""Shows one answer while it is made: its text on stdout, how far it is on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.status import Status

from valley2_edge.answer import AnswerParser, AnswerPiece, Step
from valley2_edge.byte_count import format_bytes
from valley2_edge.cli.plain_console import plain
from valley2_edge.cli.wrapping import MAX_COLUMNS, WordWrapper

_STAGES = {
    "check": "checking the bundle",
    "load": "loading the bundle",
    "build": "building an engine for the GPU, once",
    "siglip": "tiles",
    "eagle": "Eagle pictures",
    "prefill": "prefill",
    "decode": "answer",
}


class ProgressLine:
    """One line on a terminal's stderr that changes with the progress; nothing elsewhere.

    It goes away when the answer begins on the same terminal, so that the two do not mix.
    """

    def __init__(self, console: Console) -> None:
        self._status: Status | None = None
        self._console = console
        self._stays = not sys.stdout.isatty()
        self._decode_began = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` of a stage are done."""
        if stage == "decode" and not self._stays:
            self.close()
            return
        if not self._console.is_terminal:
            return
        text = self._describe(stage, done, total)
        if self._status is None:
            self._status = self._console.status(plain(text))
            self._status.start()
        else:
            self._status.update(plain(text))

    def close(self) -> None:
        """Removes the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _describe(self, stage: str, done: int, total: int) -> str:
        name = _STAGES.get(stage, stage)
        if stage == "check":
            return f"{name}: {format_bytes(done)} of {format_bytes(total)}"
        if stage != "decode":
            return f"{name}: {done} of {total}"
        if done <= 1:
            self._decode_began = time.monotonic()
            return f"{name}: {done} tokens"
        speed = (done - 1) / max(time.monotonic() - self._decode_began, 1e-9)
        return f"{name}: {done} tokens, {speed:.1f} tokens/s"


def print_answer(pieces: Iterable[str], think: bool) -> None:
    """Streams an answer to stdout and ends its last line.

    On a terminal lines are broken at words and control characters are spelled out; a pipe or a file gets the answer as
    the model wrote it.

    Args:
        pieces: The pieces of the answer, as they are made.
        think: Show the steps of a four-step answer under headings.
    """
    wrapper = WordWrapper(_write, columns_of_terminal()) if sys.stdout.isatty() else None
    write = _write if wrapper is None else wrapper.push
    printer = _StepPrinter(write) if think else None
    printed = False
    try:
        for piece in pieces:
            if printer is None:
                write(piece)
            else:
                printer.push(piece)
            printed = True
    finally:
        if printer is not None:
            printer.finish()
        if wrapper is not None:
            wrapper.finish()
        if printed:
            _write("\n")


def columns_of_terminal() -> int:
    """Cells of a line of prose on this terminal."""
    return max(min(shutil.get_terminal_size().columns, MAX_COLUMNS), 1)


class _StepPrinter:
    """Writes each step under its heading, without white space around it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._parser = AnswerParser()
        self._step: Step | None = None
        self._written = False
        self._at_start = True
        self._held = ""

    def push(self, text: str) -> None:
        """Takes a piece of the answer."""
        for piece in self._parser.push(text):
            self._print(piece)

    def finish(self) -> None:
        """Writes what is left."""
        for piece in self._parser.finish():
            self._print(piece)

    def _print(self, piece: AnswerPiece) -> None:
        if piece.step != self._step:
            if piece.step is None and not piece.text.strip():
                return  # white space between two steps
            heading = f"{piece.step.capitalize()}:\n" if piece.step is not None else ""
            self._write(("\n\n" if self._written else "") + heading)
            self._step, self._at_start, self._held = piece.step, True, ""
            self._written = self._written or bool(heading)
        text = piece.text.lstrip() if self._at_start else self._held + piece.text
        shown = text.rstrip()
        # White space at the end waits: the step may be over.
        self._held = text[len(shown) :]
        if shown:
            self._at_start, self._written = False, True
            self._write(shown)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
