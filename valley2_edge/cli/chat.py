"""`valley2-edge chat`: questions about pictures, one or a conversation of them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from valley2_edge.byte_count import format_bytes, parse_bytes
from valley2_edge.cli import chat_options as options
from valley2_edge.cli.answer_view import ProgressLine, print_answer
from valley2_edge.cli.conversation import Conversation
from valley2_edge.cli.media import Media, split_words
from valley2_edge.cli.terminal import error_console, print_line
from valley2_edge.errors import InputError
from valley2_edge.user_data import resolve_bundle

if TYPE_CHECKING:
    from valley2_edge.runtime.model import Valley2
    from valley2_edge.runtime.session import Session

# Names of `Valley2.session` and `Session.ask`, and of the parameters of `chat`.
SESSION_OPTIONS = (
    *("context_length", "kv_precision", "prefill_chunk", "system", "think", "policy", "strict"),
    *("eagle", "tiles", "eagle_preset", "eagle_max_tokens", "eagle_min_tokens"),
)
ASK_OPTIONS = (
    *("frames", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    "speculation",
)


def chat(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES]... [QUESTION]",
            help="Pictures or one video, then the question; without a question a conversation begins.",
            show_default=False,
        ),
    ] = None,
    bundle: options.BundleOption = None,
    threads: options.Threads = 0,
    activations: options.Activations = "int8",
    vision_engine: options.VisionEngineOption = "auto",
    provider: options.Providers = None,
    device: options.Device = None,
    gpu_memory: options.GpuMemory = None,
    context_length: options.ContextLength = 0,
    kv_precision: options.KvPrecision = "auto",
    prefill_chunk: options.PrefillChunk = 0,
    vision_cache: options.VisionCache = "256MiB",
    prefix_cache: options.PrefixCache = "256MiB",
    memory: options.Memory = None,
    policy: options.PolicyOption = "hub",
    strict: options.Strict = False,
    eagle: options.Eagle = True,
    tiles: options.Tiles = True,
    eagle_preset: options.EaglePresetOption = "balanced",
    eagle_max_tokens: options.EagleMaxTokens = None,
    eagle_min_tokens: options.EagleMinTokens = None,
    video: options.Video = None,
    frames: options.Frames = 8,
    system: options.System = None,
    think: options.Think = False,
    max_new_tokens: options.MaxNewTokens = 1024,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = None,
    speculation: options.Speculation = "auto",
    save: options.Save = None,
    resume: options.Resume = None,
    stats: options.Stats = False,
) -> None:
    """Chat about pictures or a video; the answer goes to stdout, all else to stderr."""
    given = locals()
    media, question = split_words(words or [])
    media = media.joined(Media(video=video))
    media.check_presence()
    _check_files(context, save, resume)
    vision_cache_bytes, prefix_cache_bytes = (parse_bytes(size, least=0) for size in (vision_cache, prefix_cache))
    directory = resolve_bundle(bundle)
    from valley2_edge.runtime.model import Valley2

    messages = error_console()
    line = ProgressLine(messages)
    with contextlib.closing(line):
        model = Valley2.load(
            directory,
            threads=threads,
            activations=activations,
            vision_engine=vision_engine,
            providers=provider,
            vision_cache_bytes=vision_cache_bytes,
            prefix_cache_bytes=prefix_cache_bytes,
            device=device,
            gpu_memory=gpu_memory,
            memory=memory,
            on_progress=line,
        )
    with model:
        if device not in (None, "cpu"):
            print_line(messages, _placement(model))
        chatter = Chatter(model, _pick(given, SESSION_OPTIONS), _pick(given, ASK_OPTIONS), messages, stats, resume)
        if question is not None:
            chatter.ask(question, media)
        else:
            Conversation(chatter.ask, chatter.reset, chatter.show_stats, messages, media).run()
        if save is not None:
            chatter.save(save)


def _placement(model: Valley2) -> str:
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
    session_options: dict[str, Any]
    ask_options: dict[str, Any]
    messages: Console
    stats: bool
    resume: Path | None = None
    _session: Session = field(init=False)
    _providers: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.resume is None:
            self._session = self.model.session(**self.session_options)
        else:
            self._session = self.model.resume(self.resume)
            self._show_turns()
        if self._session.memory is not None:
            changes = ", ".join(self._session.memory.changes) or "all as asked for"
            print_line(self.messages, f"memory: {format_bytes(self._session.memory.plan.peak_bytes)}; {changes}")

    def ask(self, question: str, media: Media) -> None:
        """Streams the answer to stdout.

        Raises:
            Cancelled: Ctrl-C was pressed; the session stays usable.
            Valley2Error: A picture, the prompt or an option is not acceptable.
        """
        line = ProgressLine(self.messages)
        try:
            with contextlib.closing(line), cancelling_on_interrupt(self._session):
                answer = self._session.ask(
                    question,
                    images=[str(picture) for picture in media.pictures],
                    video=media.video,
                    on_progress=line,
                    **self.ask_options,
                )
                print_answer(answer, self.session_options["think"])
            self._show_speed()
        finally:
            self._show_providers()
            if self.stats:
                self.show_stats()

    def reset(self) -> None:
        """Begins a new conversation."""
        self._session.close()
        self._session = self.model.session(**self.session_options)

    def save(self, path: Path) -> None:
        """Writes the conversation to a file.

        Raises:
            InputError: It cannot be written.
        """
        self._session.save(path)
        print_line(self.messages, f"saved: {path}, {format_bytes(path.stat().st_size)}")

    def show_stats(self) -> None:
        """Shows what the last answer cost."""
        from valley2_edge.cli.stats_table import stats_table

        self.messages.print(stats_table(self._session.statistics, sampled=self.ask_options["temperature"] > 0))

    def _show_turns(self) -> None:
        for turn in self._session.turns:
            shown = f" [pictures: {turn.pictures}]" if turn.pictures else ""
            print_line(self.messages, f"> {turn.question}{shown}")
            print_line(self.messages, turn.answer)

    def _show_speed(self) -> None:
        # On a terminal the live line had to make room for the answer itself.
        statistics = self._session.statistics
        if self.messages.is_terminal and not self.stats:
            speed = f"{statistics.decode_tokens_per_second:.1f} tokens/s"
            print_line(self.messages, f"{statistics.new_tokens} tokens, {speed}")

    def _show_providers(self) -> None:
        """Says once what computes each engine."""
        providers = self._session.statistics.providers
        new = {name: got for name, got in providers.items() if self._providers.get(name) != got}
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


def _check_files(context: typer.Context, save: Path | None, resume: Path | None) -> None:
    """Mistakes that would otherwise show only when the work is done."""
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise InputError(f"--save {save} cannot be written: name a file in a directory that is there")
    if resume is None:
        return
    for name in SESSION_OPTIONS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')} is the saved conversation's own: leave it out with --resume")


def _pick(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: given[name] for name in names}
