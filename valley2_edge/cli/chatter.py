"""A model with the options of `valley2-edge chat`, and the conversation that the questions go to."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from valley2_edge.byte_count import format_bytes
from valley2_edge.cli.answer_view import ProgressLine, print_answer
from valley2_edge.cli.conversation_file import check_target
from valley2_edge.cli.media import Media
from valley2_edge.cli.terminal import print_line
from valley2_edge.cli.wrapping import print_prose
from valley2_edge.options import DEFAULT_FRAMES, SamplingOptions, SessionOptions
from valley2_edge.runtime.model import Valley2
from valley2_edge.runtime.session import Session


def placement(model: Valley2) -> str:
    """Where the decoder runs, in words."""
    about = model.engines.decoder.description
    if about.device == "cpu":
        return f"decoder on the CPU: {about.device_reason}"
    layers = f"{about.gpu_layers} of {about.layers} layers, {format_bytes(about.gpu_bytes)}"
    shared = "" if model.gpu_choice is None else f"; with vision: {model.gpu_choice.text}"
    return f"decoder on {about.device_name}: {layers}{shared}"


@dataclass
class Chatter:
    """A model with its options, and the session that the questions go to."""

    model: Valley2
    session_options: SessionOptions
    sampling: SamplingOptions
    messages: Console
    frames: int = DEFAULT_FRAMES
    """Most frames to take of a video."""
    stats: bool = False
    """Show a table after every answer."""
    resume: Path | None = None
    """A saved conversation to go on with, whose own options then hold for the session."""
    wanted_provider: str | None = None
    """ONNX Runtime's execution provider that was asked for first."""
    _session: Session = field(init=False)
    _providers: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.resume is None:
            self._session = self.model.session(self.session_options)
        else:
            self._session = self.model.resume(self.resume)
            self.session_options = self._session.options
            self._show_turns()
        if self._session.memory is not None:
            changes = ", ".join(self._session.memory.changes) or "all as asked for"
            print_line(self.messages, f"memory: {format_bytes(self._session.memory.plan.peak_bytes)}; {changes}")

    @property
    def turns(self) -> int:
        """Questions that are in the context, with their pictures."""
        return len(self._session.turns)

    def ask(self, question: str, media: Media) -> None:
        """Streams the answer to stdout.

        Raises:
            Cancelled: Ctrl-C was pressed; the session stays usable.
            Valley2Error: A picture, the prompt or an option is not acceptable.
        """
        line = ProgressLine(self.messages)
        before = self._session.statistics
        try:
            with contextlib.closing(line), cancelling_on_interrupt(self._session):
                answer = self._session.ask(
                    question,
                    images=[picture if isinstance(picture, bytes) else str(picture) for picture in media.pictures],
                    video=media.video,
                    sampling=self.sampling,
                    frames=self.frames,
                    on_progress=line,
                )
                print_answer(answer, self.session_options.think)
            self._show_speed()
        finally:
            if self._session.statistics is not before:
                self._show_providers()
                if self.stats:
                    self.show_stats()

    def reset(self) -> None:
        """Begins a new conversation; when that fails, the old one goes on.

        Raises:
            Valley2Error: No session can be made.
        """
        old, self._session = self._session, self.model.session(self.session_options)
        old.close()

    def save(self, path: Path) -> None:
        """Writes the conversation to a file.

        Raises:
            InputError: It cannot be written, or another file would be lost.
        """
        check_target(path, str(path))
        self._session.save(path)
        print_line(self.messages, f"saved: {path}, {format_bytes(path.stat().st_size)}")

    def show_stats(self) -> None:
        """Shows what the last answer cost."""
        from valley2_edge.cli.stats_table import stats_table

        self.messages.print(stats_table(self._session.statistics, sampled=self.sampling.temperature > 0))

    def _show_turns(self) -> None:
        for turn in self._session.turns:
            shown = f" [pictures: {turn.pictures}]" if turn.pictures else ""
            print_line(self.messages, f"> {turn.question}{shown}")
            print_prose(self.messages, turn.answer)

    def _show_speed(self) -> None:
        # On a terminal the live line had to make room for the answer itself.
        statistics = self._session.statistics
        if self.messages.is_terminal and not self.stats:
            speed = f"{statistics.decode_tokens_per_second:.1f} tokens/s"
            print_line(self.messages, f"{statistics.new_tokens} tokens, {speed}")

    def _show_providers(self) -> None:
        """Says once what computes each engine, where it was asked for or is not what was asked for."""
        providers = self._session.statistics.providers
        wanted = self.wanted_provider
        new = {
            name: got
            for name, got in providers.items()
            if self._providers.get(name) != got and (self.stats or (wanted is not None and got[:1] != [wanted]))
        }
        if new:
            self._providers.update(new)
            text = ", ".join(f"{name} on {'+'.join(got)}" for name, got in new.items())
            print_line(self.messages, f"vision engines: {text}")


@contextlib.contextmanager
def cancelling_on_interrupt(session: Session) -> Iterator[None]:
    """Makes the first Ctrl-C cancel the session's answer; a second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
