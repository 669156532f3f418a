"""`valley2-edge chat`: questions about pictures, one or a conversation of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from valley2_edge.byte_count import format_bytes, parse_bytes
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli import chat_options as options
from valley2_edge.cli.answer_view import ProgressLine, print_answer
from valley2_edge.cli.conversation import Conversation
from valley2_edge.cli.media import Media, mentioned_files, path_of, split_words
from valley2_edge.cli.terminal import error_console, print_line
from valley2_edge.cli.wrapping import print_prose
from valley2_edge.errors import InputError
from valley2_edge.outside_files import open_regular
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.text_limits import check_text

if TYPE_CHECKING:
    from valley2_edge.runtime.model import Valley2
    from valley2_edge.runtime.session import Session

# Names of `Valley2.session` and `Session.ask`, and of the parameters of `chat`.
SESSION_OPTIONS = (
    *("context_length", "kv_precision", "prefill_chunk", "system", "think", "policy", "strict"),
    *("eagle", "tiles", "eagle_preset", "eagle_max_tokens", "eagle_min_tokens", "max_picture_pixels"),
)
ASK_OPTIONS = (
    *("frames", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    "speculation",
)

Result = TypeVar("Result")

_SESSION_HEAD = b'{"__metadata__"'


def chat(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES]... [QUESTION]",
            help="Pictures or one video, then the question in quotes; without a question a conversation begins. "
            "A lone - is what stdin holds: a picture, or the question.",
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
    max_picture_pixels: options.MaxPicturePixels = DEFAULT_MAX_PICTURE_PIXELS,
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
    media = media.joined(Media(video=None if video is None else path_of(str(video))))
    media.check(max_picture_pixels)
    if question is None and sys.stdin is None:
        raise InputError("stdin is closed, so there is no question: write it as the last word")
    for text, what in ((question, "The question"), (system, "The system prompt")):
        if text is not None:
            check_text(text, what)
    _check_options(given)
    _check_files(context, save, resume)
    sizes = {name: _bytes_of(name, given[name]) for name in ("vision_cache", "prefix_cache", "memory", "gpu_memory")}
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
            vision_cache_bytes=sizes["vision_cache"],
            prefix_cache_bytes=sizes["prefix_cache"],
            device=device,
            gpu_memory=gpu_memory,
            memory=memory,
            on_progress=line,
        )
    with model:
        if device not in (None, "cpu"):
            print_line(messages, _placement(model))
        chatter = Chatter(model, _pick(given, SESSION_OPTIONS), _pick(given, ASK_OPTIONS), messages, stats, resume)
        chatter.wanted_provider = provider[0] if provider else None
        if question is None:
            Conversation(chatter, messages, media, max_picture_pixels).run()
        else:
            for name in mentioned_files(question):
                print_line(messages, f"valley2-edge: note: the model does not see {name}: name it before the question")
            chatter.ask(question, media)
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
    wanted_provider: str | None = None
    """ONNX Runtime's execution provider that was asked for first."""
    _session: Session = field(init=False)
    _providers: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.resume is None:
            self._session = self.model.session(**self.session_options)
        else:
            self._session = self.model.resume(self.resume)
            self.session_options = vars(self._session.options)
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
                    on_progress=line,
                    **self.ask_options,
                )
                print_answer(answer, self.session_options["think"])
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
        old, self._session = self._session, self.model.session(**self.session_options)
        old.close()

    def save(self, path: Path) -> None:
        """Writes the conversation to a file.

        Raises:
            InputError: It cannot be written, or another file would be lost.
        """
        _check_target(path, str(path))
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


def _check_options(given: Mapping[str, Any]) -> None:
    """What `Valley2.load`, `Valley2.session` and `Session.ask` would refuse, before a bundle is looked for."""
    from valley2_edge.options import LARGEST_UINT32, LoadOptions, SamplingOptions, SessionOptions, check_whole
    from valley2_edge.policy import Policy

    LoadOptions(threads=given["threads"])
    session = SessionOptions(**_pick(given, SESSION_OPTIONS))
    check_whole("frames", given["frames"], 1, LARGEST_UINT32)
    Policy(**_pick(vars(session), [name.name for name in fields(Policy)]))
    SamplingOptions(**_pick(given, [name.name for name in fields(SamplingOptions)]))
    if given["provider"] is not None:
        from valley2_edge.runtime.onnx.providers import choose_providers

        _named("provider", lambda: choose_providers(given["provider"]))


def _bytes_of(name: str, size: str | None) -> int:
    """An amount of memory; 0 when none is given."""
    least = 0 if name.endswith("cache") else 1
    return 0 if size is None else _named(name, lambda: parse_bytes(size, least))


def _named(name: str, check: Callable[[], Result]) -> Result:
    """What a check returns; what is wrong is said with the option's name in front."""
    try:
        return check()
    except InputError as error:
        raise InputError(f"--{name.replace('_', '-')}: {error}") from error


def _check_files(context: typer.Context, save: Path | None, resume: Path | None) -> None:
    """Mistakes that would otherwise show only when the work is done."""
    if save is not None:
        _check_target(save, f"--save {save}")
    if resume is None:
        return
    if not resume.is_file():
        raise InputError(f"there is no saved conversation at {resume}")
    if not _is_conversation(resume):
        raise InputError(f"{resume} is no saved conversation")
    for name in SESSION_OPTIONS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')} is the saved conversation's own: leave it out with --resume")


def _check_target(path: Path, name: str) -> None:
    """Refuses a place where no conversation can be saved, or where one would take another file's place."""
    parent = path.absolute().parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{name} cannot be written: name a file in a directory that is there and yours")
    if path.exists() and not (path.is_file() and _is_conversation(path)):
        raise InputError(f"{name} is another file, which would be lost: name a new one, or a saved conversation")


def _is_conversation(path: Path) -> bool:
    """Whether a file begins as a saved conversation does, with a length and safetensors' header, or is empty."""
    with open_regular(path, InputError) as stream:
        head = stream.read(8 + len(_SESSION_HEAD))
    return not head or head[8:] == _SESSION_HEAD


def _pick(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: given[name] for name in names}
