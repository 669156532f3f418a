"""A bundle in memory, ready to answer."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from valley2_edge.bundle import TOKENIZER_FILE, Bundle, open_bundle
from valley2_edge.errors import BudgetError, InputError
from valley2_edge.options import LoadOptions, SamplingOptions, SessionOptions, changed, check_names, picked, size_bytes
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.backend import Backend, BackendTable
from valley2_edge.runtime.core.conversation import Conversation
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.memory import MemorySettings, Size
from valley2_edge.runtime.core.open_model import OpenModel
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.decoder_choice import on_devices, open_decoder, settings_for_gpu
from valley2_edge.runtime.engines import Engines
from valley2_edge.runtime.gpu_budget import GpuChoice
from valley2_edge.runtime.media.sources import ImageSources
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.runtime.memory_budget import MemoryBudget
from valley2_edge.runtime.onnx.decoder import usable_processors
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.session import Session
from valley2_edge.runtime.vision.backend_calls import VisionTable
from valley2_edge.runtime.vision.encoder import VisionEncoder
from valley2_edge.runtime.vision.engine_choice import check_vision_engine
from valley2_edge.text_limits import check_text

_ASK_ARGUMENTS = ("images", "video", "frames", "think", "sampling", "on_progress")
"""What `Session.ask` takes beside the question and the fields of `SamplingOptions`."""


class Valley2:
    """A loaded bundle. It is immutable and may be shared by threads; each conversation is a session of its own."""

    def __init__(
        self,
        bundle: Bundle,
        engines: Engines,
        budget: MemoryBudget | None = None,
        settings: MemorySettings | None = None,
        gpu_choice: GpuChoice | None = None,
    ) -> None:
        self._bundle = bundle
        self._engines = engines
        self._open_model = engines.decoder.model
        self._budget = budget
        self._settings = settings or MemorySettings()
        self._gpu_choice = gpu_choice
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._closed = False

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        options: LoadOptions = LoadOptions(),
        *,
        on_progress: ProgressCallback | None = None,
        **changes: Any,
    ) -> Valley2:
        """Loads a bundle: checks its files, then maps the decoder's; the vision towers wait for the first picture.

        Args:
            directory: The bundle.
            options: Where and with what the model computes.
            on_progress: Told how far the check and the load are; an exception that it raises stops them.
            **changes: Fields of `LoadOptions` that differ from `options`.

        Raises:
            BundleError: The bundle is missing, damaged or of another version.
            InputError: An option is out of range, or the machine lacks the instruction set, the GPU or the provider.
            BudgetError: No session would fit the memory; the text says what would.
        """
        report = on_progress or ignore_progress
        options = changed(options, changes)
        limit = size_bytes(options.memory) or None
        bundle = open_bundle(Path(directory), progress=lambda done, total: report("check", done, total))
        settings = replace(MemorySettings.of(options), keep_vision=options.keep_vision or limit is not None)
        check_vision_engine(bundle, options)
        placed = on_devices(bundle, settings, options.device)
        settings, gpu_choice = settings_for_gpu(bundle, placed)
        budget = None if limit is None else MemoryBudget(bundle, limit, settings)
        if budget is not None:
            chosen = budget.choose(settings).settings
            settings = replace(
                settings,
                keep_vision=chosen.keep_vision,
                vision_cache_bytes=chosen.vision_cache_bytes,
                prefix_cache_bytes=chosen.prefix_cache_bytes,
            )
        # What cannot compute here is found when the first picture comes, and said then.
        threads = options.threads or usable_processors()
        vision = VisionTable.of(
            bundle, LoadOptions(threads=threads, providers=options.providers, vision_engine=options.vision_engine)
        )

        def open_one(chosen: MemorySettings, backend: Backend | None) -> Decoder:
            if chosen.device != "cpu":  # the core itself decides how a GPU is shared
                chosen = replace(chosen, gpu_layers=placed.gpu_layers, gpu_memory=placed.gpu_memory)
            return _open_in_model(bundle, chosen, vision, backend, lambda done, total: report("load", done, total))

        decoder = open_decoder(bundle, settings, options.device, open_one)
        engines = Engines(
            bundle.manifest.architecture,
            Tokenizer.of_model(decoder.model, bundle.path(TOKENIZER_FILE)),
            VisionEncoder.of_model(bundle, decoder.model, vision),
            decoder,
        )
        return cls(bundle, engines, budget, settings, gpu_choice)

    @property
    def bundle(self) -> Bundle:
        """The bundle that was loaded."""
        return self._bundle

    @property
    def budget(self) -> MemoryBudget | None:
        """The limit on memory that the model was loaded with; None: it has none."""
        return self._budget

    @property
    def gpu_choice(self) -> GpuChoice | None:
        """How decoder and vision engines share a GPU; None: they do not."""
        return self._gpu_choice

    @property
    def engines(self) -> Engines:
        """The parts, for programs that measure or verify them one by one."""
        return self._engines

    def session(self, options: SessionOptions = SessionOptions(), **changes: Any) -> Session:
        """Begins a conversation.

        Args:
            options: What holds for the whole conversation.
            **changes: Fields of `SessionOptions` that differ from `options`.

        Raises:
            InputError: An option is out of range, or the model is closed.
            BudgetError: The model was loaded with a limit on memory, and nothing keeps it.
        """
        return self._open(changed(options, changes))

    def resume(self, path: str | os.PathLike[str]) -> Session:
        """Goes on with a session that `Session.save` wrote: the next answer is the one that it would have given.

        Args:
            path: Where the session was saved.

        Raises:
            InputError: The file is missing, no saved session, damaged, or of another bundle; or the model is closed.
            BudgetError: The model was loaded with a limit on memory that the session does not keep.
        """
        if self._closed:
            raise InputError("The model is closed.")
        conversation = Conversation(self._open_model, saved=path)
        try:
            return self._open(conversation.options, conversation)
        except BaseException:
            conversation.close()
            raise

    def _open(self, options: SessionOptions, resumed: Conversation | None = None) -> Session:
        if self._closed:
            raise InputError("The model is closed.")
        if options.system is not None:
            check_text(options.system, "The system prompt")
        picked(Policy, options)  # refuses a least number of Eagle tokens above the cap
        wanted = replace(self._settings, **vars(options))
        choice = None if self._budget is None else self._budget.choose(wanted)
        chosen = wanted if choice is None else choice.settings
        if resumed is not None and chosen.kv_precision != wanted.kv_precision:
            raise BudgetError("The saved session does not keep the limit on memory; load the model with a higher one.")
        options = picked(SessionOptions, chosen)
        session = Session(
            self._engines,
            resumed or Conversation(self._open_model, options),
            options,
            check_memory=None if self._budget is None else _memory_check(self._budget, chosen),
            memory=choice,
        )
        self._give_up(chosen)
        self._sessions.add(session)
        return session

    def _give_up(self, chosen: MemorySettings) -> None:
        """What the sessions share becomes as small as one of them needs it to be."""
        if self._settings.keep_vision and not chosen.keep_vision:
            self._settings = replace(self._settings, keep_vision=False)
            self._engines.vision.stop_keeping()
        if chosen.vision_cache_bytes < self._settings.vision_cache_bytes:
            self._settings = replace(self._settings, vision_cache_bytes=chosen.vision_cache_bytes)
            self._engines.vision.resize_cache(chosen.vision_cache_bytes)
        if chosen.prefix_cache_bytes < self._settings.prefix_cache_bytes:
            self._settings = replace(self._settings, prefix_cache_bytes=chosen.prefix_cache_bytes)
            self._engines.decoder.resize_prefix_cache(chosen.prefix_cache_bytes)

    def chat(
        self,
        question: str,
        *,
        images: ImageSources = (),
        video: VideoSource | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Asks one question in a session of its own.

        Args:
            question: As in `Session.ask`.
            images: As in `Session.ask`.
            video: As in `Session.ask`.
            **options: Fields of `SessionOptions` and `SamplingOptions`, and what else `Session.ask` takes.

        Returns:
            The pieces of the answer.

        Raises:
            InputError: An option is out of range, or there is no option of that name.
        """
        check_names(options, SessionOptions, SamplingOptions, others=_ASK_ARGUMENTS)
        of_session = {option.name for option in fields(SessionOptions)} - set(_ASK_ARGUMENTS)
        session = self.session(**{name: options.pop(name) for name in of_session & options.keys()})
        try:
            answer = session.ask(question, images=images, video=video, **options)
        except BaseException:
            session.close()
            raise
        return _until_closed(answer, session)

    def close(self) -> None:
        """Stops and closes all sessions and frees the model.

        Raises:
            InputError: A callback of an answer asks; it can only cancel.
        """
        if self._closed:
            return
        self._closed = True
        try:
            for session in list(self._sessions):
                session.close()
        except BaseException:
            self._closed = False  # asked by a callback of an answer, which needs the model
            raise
        self._engines.close()
        self._open_model.close()

    def __enter__(self) -> Valley2:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_in_model(
    bundle: Bundle,
    settings: MemorySettings,
    vision: VisionTable | None,
    backend: Backend | None,
    on_load: Callable[[int, int], None],
) -> Decoder:
    """The decoder of a model that is opened."""
    with bundle.unchanged(TOKENIZER_FILE, *bundle.manifest.decoder.files):
        model = OpenModel(
            bundle.directory,
            settings,
            vision_backend=None if vision is None else vision.table,
            decoder_backend=None if backend is None else BackendTable(backend),
            on_load=on_load,
            kept=vision,
        )
        return Decoder.of_model(model, backend)


def _memory_check(budget: MemoryBudget, settings: MemorySettings) -> Callable[[Sequence[Size], bool], None]:
    def check(sizes: Sequence[Size], video: bool) -> None:
        budget.check(sizes, settings, video=video)

    return check


def _until_closed(answer: Iterator[str], session: Session) -> Iterator[str]:
    try:
        yield from answer
    finally:
        session.close()
