"""A bundle in memory, ready to answer."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.byte_count import parse_bytes
from valley2_edge.errors import BudgetError, InputError
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.policy import EaglePreset, PolicyName
from valley2_edge.runtime.core.memory import MemorySettings, Size
from valley2_edge.runtime.core.native_call import LARGEST_UINT64, unsigned
from valley2_edge.runtime.decoder_choice import open_decoder, place
from valley2_edge.runtime.decoder_engine import DecoderSessionEngine
from valley2_edge.runtime.engines import Engines
from valley2_edge.runtime.gpu_budget import GpuChoice
from valley2_edge.runtime.media.sources import ImageSources
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.runtime.memory_budget import MemoryBudget
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.saved_session import SavedConversation, SessionOptions, Turn
from valley2_edge.runtime.session import Session
from valley2_edge.runtime.vision.cache import DEFAULT_VISION_CACHE_BYTES, VisionCache, engines_of
from valley2_edge.runtime.vision.encoder import VisionEncoder
from valley2_edge.runtime.vision.engine import VisionEngineName
from valley2_edge.text_limits import check_text
from valley2_edge.tokenizer import bundle_tokenizer

DEFAULT_PREFIX_CACHE_BYTES = 256 << 20

_SESSION_OPTIONS = frozenset(
    {
        "system",
        "policy",
        "strict",
        "context_length",
        "kv_precision",
        "prefill_chunk",
        "eagle",
        "tiles",
        "eagle_preset",
        "eagle_max_tokens",
        "eagle_min_tokens",
        "max_picture_pixels",
    }
)


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
        self._budget = budget
        self._settings = settings or MemorySettings()
        self._gpu_choice = gpu_choice
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._closed = False

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        threads: int = 0,
        isa: str = "auto",
        activations: str = "int8",
        device: str | None = None,
        gpu_layers: int = 0,
        gpu_memory: str | int | None = None,
        providers: Sequence[str] | None = None,
        vision_engine: VisionEngineName = "auto",
        keep_vision: bool = False,
        vision_cache_bytes: int = DEFAULT_VISION_CACHE_BYTES,
        prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES,
        memory: str | int | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Valley2:
        """Loads a bundle: checks its files, then maps the decoder's; the vision engines wait for the first picture.

        Args:
            directory: The bundle.
            threads: For the decoder and the vision engines together; 0 is as many as the process may run on.
            isa: Instruction set of the native decoder: auto, portable, avx2, avx-vnni, avx512-vnni or neon.
            activations: Of quantised matrices: int8, or int16 for about 100 times finer at twice the arithmetic.
            device: Of the decoder: cpu, cuda, or auto for a GPU if there is a usable one with room for a layer. None:
                cpu, or for a decoder in ONNX Runtime what `providers` say, whom a device must not contradict.
            gpu_layers: The first ones of the native decoder, on the GPU; 0 is as many as there is memory for.
            gpu_memory: Of the GPU's memory at most, as "6GiB" or in bytes; None: what is free. Where vision engines are
                on the GPU as well, it decides what stays there, what goes after use and how many layers there are.
            providers: ONNX Runtime's execution providers for the vision engines, and for a decoder that was exported
                for it, in order of preference; None is the order that this machine offers.
            vision_engine: "native" for the core's own towers, "onnx" for ONNX Runtime, "auto" for what the bundle has:
                an export decides with --vision-precision. "tensorrt" builds engines for an NVIDIA GPU, once, and goes
                on with ONNX Runtime, with a warning, where that cannot be.
            keep_vision: Hold the vision engines between questions instead of loading them for each one with pictures.
            vision_cache_bytes: Of embeddings of pictures at most, kept for the next question about the same picture in
                any session; those used least recently go first. 0 keeps none.
            prefix_cache_bytes: Of KV pages at most that no session holds, kept for a later prompt that begins in the
                same way, likewise. 0: sessions share what one of them holds.
            memory: Of the process at most, as "6GiB" or in bytes: each session then gives up as little as possible of
                what it is asked for, and a question that would need more is refused. `keep_vision` is taken where it
                fits. None: no limit.
            on_progress: Told how far the check and the load are; an exception that it raises stops them.

        Raises:
            BundleError: The bundle is missing, damaged or of another version.
            InputError: An option is out of range, or the machine lacks the instruction set, the GPU or the provider.
            BudgetError: No session would fit the memory; the text says what would.
        """
        report = on_progress or ignore_progress
        limit = parse_bytes(str(memory)) if memory is not None else None
        gpu_bytes = parse_bytes(str(gpu_memory)) if gpu_memory is not None else 0
        bundle = open_bundle(Path(directory), progress=lambda done, total: report("check", done, total))
        settings = MemorySettings(
            keep_vision=keep_vision or limit is not None,
            vision_cache_bytes=unsigned("vision_cache_bytes", vision_cache_bytes, LARGEST_UINT64),
            prefix_cache_bytes=unsigned("prefix_cache_bytes", prefix_cache_bytes, LARGEST_UINT64),
            threads=threads,
            activations=activations,
            gpu_layers=gpu_layers,
            gpu_memory=gpu_bytes,
        )
        settings, gpu_choice = place(bundle, settings, device, vision_engine)
        budget = None if limit is None else MemoryBudget(bundle, limit, settings.vision_device)
        if budget is not None:
            chosen = budget.choose(settings).settings
            settings = replace(
                settings,
                keep_vision=chosen.keep_vision,
                vision_cache_bytes=chosen.vision_cache_bytes,
                prefix_cache_bytes=chosen.prefix_cache_bytes,
            )
        report("load", 0, 2)
        tokenizer = bundle_tokenizer(bundle)
        report("load", 1, 2)
        decoder = open_decoder(bundle, settings, isa, device, providers)
        vision = VisionEncoder(
            bundle,
            threads=decoder.description.threads,
            providers=providers,
            keep=settings.keep_vision,
            trim=decoder.trim,
            engine=vision_engine,
            isa=decoder.description.isa,
        )
        report("load", 2, 2)
        decoder.resize_prefix_cache(settings.prefix_cache_bytes)
        cache = VisionCache(engines_of(bundle.manifest), settings.vision_cache_bytes)
        engines = Engines(bundle.manifest.architecture, tokenizer, vision, decoder, cache)
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

    def session(
        self,
        *,
        system: str | None = None,
        policy: PolicyName = "hub",
        strict: bool = False,
        think: bool = False,
        context_length: int = 0,
        kv_precision: str = "auto",
        prefill_chunk: int = 0,
        eagle: bool = True,
        tiles: bool = True,
        eagle_preset: EaglePreset = "balanced",
        eagle_max_tokens: int | None = None,
        eagle_min_tokens: int | None = None,
        max_picture_pixels: int = DEFAULT_MAX_PICTURE_PIXELS,
    ) -> Session:
        """Begins a conversation.

        Args:
            system: System prompt; None is the policy's default, an empty string an empty one.
            policy: "hub" is the released processor, "repo" the repository's chat class.
            strict: Reproduce the reference's surprises as well.
            think: Ask for four-step answers.
            context_length: Positions at most; 0 is what the model was trained for. Memory grows with use.
            kv_precision: Of the KV cache: fp32, fp16, int8, or auto: fp32 for a decoder in fp32, else fp16.
            prefill_chunk: Positions computed together; 0 is 256. It does not change the answer.
            eagle: Run the Eagle branch, where the checkpoint has one.
            tiles: Cut pictures into tiles where the policy says so.
            eagle_preset: Cap of Eagle tokens: "fast" 256, "balanced" 729 (196 for each of several pictures or frames),
                "document" 1280 or "full" 16384.
            eagle_max_tokens: Another cap.
            eagle_min_tokens: Least Eagle tokens of a picture; smaller ones are enlarged. None is 4.
            max_picture_pixels: Width times height of a picture at most; larger ones are refused before they are
                decoded. For pictures of people whom nobody knows, 40,000,000 is a good choice.

        Raises:
            InputError: An option is out of range, or the model is closed.
            BudgetError: The model was loaded with a limit on memory, and nothing keeps it.
        """
        return self._open(
            SessionOptions.model_construct(
                system=system,
                policy=policy,
                strict=strict,
                think=think,
                context_length=context_length,
                kv_precision=kv_precision,
                prefill_chunk=prefill_chunk,
                eagle=eagle,
                tiles=tiles,
                eagle_preset=eagle_preset,
                eagle_max_tokens=eagle_max_tokens,
                eagle_min_tokens=eagle_min_tokens,
                max_picture_pixels=max_picture_pixels,
            )
        )

    def resume(self, path: str | os.PathLike[str]) -> Session:
        """Goes on with a session that `Session.save` wrote: the next answer is the one that it would have given.

        Args:
            path: Of the file.

        Raises:
            InputError: The file is missing, no saved session, damaged, or of another bundle; or the model is closed.
            BudgetError: The model was loaded with a limit on memory that the session does not keep.
        """
        if self._closed:
            raise InputError("The model is closed.")
        decoder = self._engines.decoder.load_session(Path(path))
        try:
            saved = SavedConversation.parse(decoder.note, path)
            return self._open(saved.options, (decoder, saved.turns))
        except BaseException:
            decoder.close()
            raise

    def _open(
        self, options: SessionOptions, resumed: tuple[DecoderSessionEngine, Sequence[Turn]] | None = None
    ) -> Session:
        if self._closed:
            raise InputError("The model is closed.")
        if options.system is not None:
            check_text(options.system, "The system prompt")
        wanted = replace(
            self._settings,
            policy=options.picture_policy(),
            context_length=options.context_length,
            kv_precision=options.kv_precision,
            prefill_chunk=options.prefill_chunk,
        )
        choice = None if self._budget is None else self._budget.choose(wanted)
        chosen = wanted if choice is None else choice.settings
        if resumed is not None and chosen.kv_precision != wanted.kv_precision:
            raise BudgetError("The saved session does not keep the limit on memory; load the model with a higher one.")
        session = Session(
            self._engines,
            options.model_copy(
                update={
                    "context_length": chosen.context_length,
                    "kv_precision": chosen.kv_precision,
                    "prefill_chunk": chosen.prefill_chunk,
                    "eagle": chosen.policy.eagle,
                    "tiles": chosen.policy.tiles,
                    "eagle_max_tokens": chosen.policy.eagle_max_tokens,
                }
            ),
            check_memory=None if self._budget is None else _memory_check(self._budget, chosen),
            memory=choice,
            resumed=resumed,
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
            self._engines.vision_cache.resize(chosen.vision_cache_bytes)
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
            **options: Those of `session` and of `Session.ask`.

        Returns:
            The pieces of the answer.

        Raises:
            InputError: An option is out of range.
            TypeError: There is no option of that name.
        """
        session = self.session(**{name: options.pop(name) for name in _SESSION_OPTIONS & options.keys()})
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

    def __enter__(self) -> Valley2:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _memory_check(budget: MemoryBudget, settings: MemorySettings) -> Callable[[Sequence[Size], bool], None]:
    def check(sizes: Sequence[Size], video: bool) -> None:
        budget.check(sizes, settings, video=video)

    return check


def _until_closed(answer: Iterator[str], session: Session) -> Iterator[str]:
    try:
        yield from answer
    finally:
        session.close()
