"""A conversation with the model: questions about pictures in, pieces of the answers out."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valley2_edge import prompt
from valley2_edge.errors import Cancelled, InputError, Valley2Error, Valley2Warning
from valley2_edge.option_checks import LARGEST_UINT32, check_whole
from valley2_edge.options import DEFAULT_FRAMES, SamplingOptions, SessionOptions, changed, picked
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.core.context_room import Context, Question, full_context
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason
from valley2_edge.runtime.core.preprocess import PreparedPicture, black_picture, prepare_pictures
from valley2_edge.runtime.core.process_memory import peak_bytes
from valley2_edge.runtime.core.sampling import chosen_seed, seed_of_step
from valley2_edge.runtime.engines import Array, Engines, prompt_segments
from valley2_edge.runtime.media.images import Size
from valley2_edge.runtime.media.sources import ImageSources, load_pictures, sort_sources
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.runtime.memory_budget import MemoryChoice
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.question import Request
from valley2_edge.runtime.saved_session import SavedConversation, Turn
from valley2_edge.runtime.session_lock import SessionLock
from valley2_edge.runtime.stats import Statistics
from valley2_edge.text_limits import check_text
from valley2_edge.tokenizer import TextStream

if TYPE_CHECKING:
    from valley2_edge.runtime.model import Valley2


class AnswerStream(Iterator[str]):
    """The pieces of one answer as they are made. It may be left at any time: what was yielded is in the context."""

    def __init__(self, pieces: Generator[str, None, None], lock: SessionLock, statistics: Statistics) -> None:
        self._pieces = pieces
        self._lock = lock
        self.statistics = statistics
        """What this answer took; complete when it has ended."""

    def __next__(self) -> str:
        with self._lock.held():
            return next(self._pieces)

    def close(self) -> None:
        """Ends the answer here.

        Raises:
            InputError: A callback of the answer itself asks; it can only cancel.
        """
        with self._lock.held():
            self.end()

    def end(self) -> None:
        """Ends the answer for a caller who holds the session's lock."""
        self._pieces.close()


class Session:
    """One conversation; made by `Valley2.session`. It belongs to one thread at a time, apart from `cancel`."""

    def __init__(
        self,
        engines: Engines,
        options: SessionOptions,
        *,
        resumed: tuple[DecoderSession, Sequence[Turn]] | None = None,
        check_memory: Callable[[Sequence[Size], bool], None] | None = None,
        memory: MemoryChoice | None = None,
    ) -> None:
        self._engines = engines
        self._check_memory = check_memory
        self.memory = memory
        """What was chosen to keep the model's limit on memory; None: it has none."""
        self._model = engines.architecture
        self._options = options
        self._policy = picked(Policy, options)
        self._layout = prompt.Layout(self._policy, self._model.picture.use_special_start_end_token)
        self._context_length = options.context_length or engines.decoder.description.max_context
        self._decoder, turns = resumed or (
            engines.decoder.session(options, reuse="auto"),
            (),
        )
        self._turns = list(turns)
        self._cancel = CancelToken()
        self._lock = SessionLock()
        self._answer: weakref.ref[AnswerStream] | None = None
        self._closed = False
        self.statistics = Statistics()
        """What the last question took."""

    def ask(
        self,
        question: str,
        *,
        images: ImageSources = (),
        video: VideoSource | None = None,
        frames: int = DEFAULT_FRAMES,
        think: bool | None = None,
        sampling: SamplingOptions = SamplingOptions(),
        on_progress: ProgressCallback | None = None,
        **changes: Any,
    ) -> AnswerStream:
        """Asks a question; earlier questions, pictures and answers stay in the context.

        The work is done while the result is iterated. A cancelled or failed question leaves no trace; an answer that
        was cancelled or left half way stays as far as it came. A new question ends the answer before it.

        Args:
            question: Text; what looks like a control token in it stays text, unless the session is strict.
            images: Paths, encoded bytes, Pillow images or uint8 arrays (height, width, 3), from any iterable, which is
                used up at once; an array (n, height, width, 3) has n of them, None is none. One path of a video counts
                as `video`. An animated picture gives its first frame here.
            video: Instead of images: the path of a video or of an animated picture (GIF, WebP, PNG, AVIF), an array
                (n, height, width, 3), or frames from any iterable, each as an image may be.
            frames: Frames to take of it at most. A video file gives exactly as many, even if it has fewer and they
                repeat, as the reference has it; an animated picture or a list gives no frame twice.
            think: Ask for the four-step answer; None is the session's own setting.
            sampling: How the answer's tokens are chosen.
            on_progress: Told how far each stage is.
            **changes: Fields of `SamplingOptions` that differ from `sampling`.

        Returns:
            The iterator of the answer's pieces. Iterating raises InputError for an unusable picture, BudgetError when
            the context or the memory does not suffice, Cancelled, and NumericError.

        Raises:
            InputError: An option is out of range, or another thread is iterating an answer of this session.
        """
        sampling = changed(sampling, changes)
        check_whole("frames", frames, 1, LARGEST_UINT32)
        check_text(question)
        text = prompt.with_thinking(question) if (self._options.think if think is None else think) else question
        report = self._lock.calling(on_progress or ignore_progress)
        with self._lock.held(wait=False):
            if self._closed:
                raise InputError("The session is closed.")
            # Only now, since an iterator of pictures can be read but once.
            images, video = sort_sources(images, video)
            if not question.strip() and not images and video is None:
                raise InputError("The question is empty.")
            turn = Request(question, text, images, video, frames, sampling, report)
            self._end_answer()
            # From here on a cancel is meant for this question, even before it is iterated.
            self._cancel.clear()
            self._decoder.resume()
            self.statistics = Statistics(context_length=self._context_length, seed=chosen_seed(sampling.seed))
            answer = AnswerStream(self._run(turn, self.statistics), self._lock, self.statistics)
            self._answer = weakref.ref(answer)
            return answer

    def cancel(self) -> None:
        """Stops the running answer from any thread: its iterator raises Cancelled; the session stays usable."""
        self._cancel.cancel()

    @property
    def policy(self) -> Policy:
        """The session's choices about pictures."""
        return self._policy

    @property
    def options(self) -> SessionOptions:
        """The options that hold in this session: a resumed one has its own."""
        return self._options

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The questions that are in the context, and their answers as far as they came."""
        return tuple(self._turns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Ends a running answer and writes the session to a file, pictures included as the decoder saw them.

        Args:
            path: Where to write; the file appears whole or not at all, and one that is there is replaced.

        Raises:
            InputError: The session is closed or works in another thread, or the file cannot be written.
        """
        with self._lock.held(wait=False):
            if self._closed:
                raise InputError("The session is closed.")
            self._end_answer()
            note = SavedConversation.made_of(self._options, self.turns)
            self._decoder.save(Path(path), note.model_dump_json())

    @staticmethod
    def load(path: str | os.PathLike[str], model: Valley2) -> Session:
        """Goes on with a saved session; as `Valley2.resume`."""
        return model.resume(path)

    @property
    def context_used(self) -> int:
        """Positions in the context."""
        return self._decoder.length

    def close(self) -> None:
        """Frees the KV cache, after stopping what runs.

        Raises:
            InputError: A callback of the session's own answer asks; it can only cancel.
        """
        self.cancel()
        with self._lock.held():
            if not self._closed:
                self._end_answer()
                self._closed = True
                self._decoder.close()

    def _end_answer(self) -> None:
        answer = self._answer() if self._answer is not None else None
        if answer is not None:
            answer.end()

    def _run(self, turn: Request, statistics: Statistics) -> Generator[str, None, None]:
        begin = time.perf_counter()
        start, before = self._decoder.length, self._decoder.counters
        answering = False
        pieces: list[str] = []
        try:
            segments = self._prepare(turn, statistics)
            self._prefill(segments, turn.report, statistics)
            answering = True
            for piece in self._generate(turn, statistics, begin):
                pieces.append(piece)
                yield piece
        except BaseException as error:  # whatever it is, the cache must be good for the next question
            failed = isinstance(error, Valley2Error) and not isinstance(error, Cancelled)
            if (failed or not answering) and self._decoder.length > start:
                self._decoder.truncate(start)
            if isinstance(error, GeneratorExit):
                statistics.stop = "stopped"
            elif isinstance(error, (Cancelled, KeyboardInterrupt)):
                statistics.stop = "cancelled"
            raise
        finally:
            if self._decoder.length > start:
                answer = "".join(pieces)
                self._turns.append(Turn(question=turn.asked, pictures=statistics.pictures, answer=answer))
            statistics.context_used = self._decoder.length
            statistics.kv_bytes = self._decoder.kv_bytes
            after = self._decoder.counters
            statistics.decode_steps = after.steps - before.steps
            statistics.drafted_tokens = after.drafted_tokens - before.drafted_tokens
            statistics.accepted_tokens = after.accepted_tokens - before.accepted_tokens
            statistics.reused_tokens = after.reused_positions - before.reused_positions
            statistics.prefix_cache_bytes = self._engines.decoder.prefix_cache.kept_bytes
            if statistics.pictures:
                statistics.providers = dict(self._engines.vision.providers)
            statistics.peak_memory_bytes = peak_bytes()
            statistics.total_seconds = time.perf_counter() - begin

    def _prepare(self, turn: Request, statistics: Statistics) -> list[Array]:
        begin = time.perf_counter()
        pictures = self._load_pictures(turn)
        self._cancel.check()
        ids = self._encode_prompt(turn.text, len(pictures))
        pictures = self._used_pictures(pictures, ids.count(prompt.PICTURE_ID))
        statistics.preprocess_seconds = time.perf_counter() - begin
        statistics.text_tokens = len(ids) - len(pictures)
        statistics.pictures = len(pictures)
        statistics.tiles = sum(picture.geometry.tile_count for picture in pictures)
        statistics.siglip_tokens = sum(picture.geometry.siglip_tokens for picture in pictures)
        statistics.eagle_tokens = sum(picture.geometry.eagle_tokens for picture in pictures)
        self._check_room(turn, pictures, statistics)
        if pictures and self._check_memory is not None:
            sizes = [(picture.geometry.width, picture.geometry.height) for picture in pictures]
            self._check_memory(sizes, turn.video is not None)
        cache = self._engines.vision_cache
        encoded = cache.encode(self._engines.vision, pictures, self._cancel, turn.report)
        statistics.vision_cache_hits = encoded.hits
        statistics.vision_cache_bytes = cache.used_bytes
        statistics.vision_load_seconds = encoded.times.load
        statistics.preprocess_seconds += encoded.times.preprocess
        statistics.siglip_seconds = encoded.times.siglip
        statistics.projector_seconds = encoded.times.projector
        statistics.eagle_seconds = encoded.times.eagle
        if encoded.vocabulary is not None and encoded.vocabulary.tokens > 0:
            entries = self._engines.architecture.projector.mlp_hidden_dim * encoded.vocabulary.tokens
            statistics.dropped_mass = encoded.vocabulary.dropped_mass
            statistics.vocabulary_share = encoded.vocabulary.multiplied / entries
        return prompt_segments(ids, encoded.tokens)

    def _load_pictures(self, turn: Request) -> list[PreparedPicture]:
        pixels = load_pictures(turn.images, turn.video, turn.frames, self._policy, self._cancel, self._check_memory)
        if not pixels and self._policy.strict and self._decoder.length == 0:
            pixels = [black_picture()]
        return prepare_pictures(pixels, self._model, self._policy, video=turn.video is not None)

    def _encode_prompt(self, question: str, picture_count: int) -> list[int]:
        if self._decoder.length == 0:
            parts = prompt.build_first_turn(question, picture_count, self._options.system, self._layout)
        else:
            parts = prompt.build_next_turn(question, picture_count, self._layout)
        return prompt.encode(parts, self._engines.tokenizer, self._policy.strict)

    @staticmethod
    def _used_pictures(pictures: list[PreparedPicture], places: int) -> list[PreparedPicture]:
        """Strict alone, where the question's own `<image>` decide, can have another number of places."""
        if places > len(pictures):
            raise InputError(f"The question has {places} places for pictures, but there are {len(pictures)} pictures.")
        if places < len(pictures):
            message = f"Only the first {places} of {len(pictures)} pictures have a place in the question."
            warnings.warn(message, Valley2Warning, stacklevel=2)
        return pictures[:places]

    def _check_room(self, turn: Request, pictures: Sequence[PreparedPicture], statistics: Statistics) -> None:
        if statistics.prompt_tokens < self._context_length - self._decoder.length:
            return
        sizes = [(picture.pixels.shape[1], picture.pixels.shape[0]) for picture in pictures]
        fresh = prompt.build_first_turn(turn.text, len(pictures), self._options.system, self._layout)
        fresh_tokens = len(prompt.encode(fresh, self._engines.tokenizer, self._policy.strict)) - len(pictures)
        longest = self._engines.decoder.description.max_context
        raise full_context(
            Question(sizes, turn.video is not None, statistics.text_tokens, self._policy, self._model),
            Context(self._context_length, self._decoder.length, longest, fresh_tokens),
        )

    def _prefill(
        self,
        segments: list[Array],
        report: ProgressCallback,
        statistics: Statistics,
    ) -> None:
        begin = time.perf_counter()

        def prefill() -> None:
            self._decoder.prefill(segments, on_progress=lambda done, total: report("prefill", done, total))

        with self._cancel.stopping(self._decoder.cancel):
            run_interruptibly(prefill, self._decoder.cancel)
        statistics.prefill_seconds = time.perf_counter() - begin

    def _generate(self, turn: Request, statistics: Statistics, begin: float) -> Iterator[str]:
        text = TextStream(self._engines.tokenizer)
        for step in range(turn.sampling.max_new_tokens):
            token = self._next_token(turn.sampling, step, statistics)
            if token is None:
                break
            if step == 0:
                statistics.first_token_seconds = time.perf_counter() - begin
            statistics.new_tokens = step + 1
            turn.report("decode", step + 1, turn.sampling.max_new_tokens)
            piece = text.push(token)
            if piece:
                yield piece
        else:
            statistics.stop = "length"
        rest = text.finish()
        if rest:
            yield rest

    def _next_token(self, sampling: SamplingOptions, step: int, statistics: Statistics) -> int | None:
        """Chooses and decodes one token; None: the answer has ended.

        One token a call, so that whatever the caller does between two pieces the cache holds exactly what he has seen.
        What a call has drafted and checked beyond its token, the next ones take from the core without a step.
        """
        chosen: list[int] = []
        one_token = replace(sampling, max_new_tokens=1, seed=seed_of_step(statistics.seed, step))
        options = GenerateOptions(
            **vars(one_token),
            stop_tokens=self._model.stop_tokens,
            tokens_to_follow=sampling.max_new_tokens - step - 1,
        )
        begin, before = time.perf_counter(), self._decoder.length
        try:
            with self._cancel.stopping(self._decoder.cancel):
                reason = run_interruptibly(lambda: self._decoder.generate(options, chosen.append), self._decoder.cancel)
        except BaseException:  # whatever it is, what nobody has seen is not in the cache
            if self._decoder.length > before:
                self._decoder.truncate(before)
            raise
        statistics.decode_seconds += time.perf_counter() - begin
        if reason == StopReason.CONTEXT and not chosen:
            statistics.stop = "context"
            message = f"The answer ends here: the context of {self._context_length} positions is full."
            warnings.warn(message, Valley2Warning, stacklevel=2)
        elif reason == StopReason.TOKEN:
            statistics.stop = "token"
        return chosen[0] if chosen else None
