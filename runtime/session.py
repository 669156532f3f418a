"""A conversation with the model: questions about pictures in, pieces of the answers out."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from valley2_edge.errors import Cancelled, InputError, Valley2Warning
from valley2_edge.option_checks import LARGEST_UINT32, check_whole
from valley2_edge.options import DEFAULT_FRAMES, SamplingOptions, SessionOptions, changed, picked
from valley2_edge.policy import Policy
from valley2_edge.runtime.async_answer import asynchronous_pieces
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.conversation import Answer, Conversation, c_text
from valley2_edge.runtime.core.pictures import Picture
from valley2_edge.runtime.engines import Engines
from valley2_edge.runtime.media.images import Size
from valley2_edge.runtime.media.sources import ImageSources, open_pictures, sort_sources
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.runtime.memory_budget import MemoryChoice
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.question import Request
from valley2_edge.runtime.session_lock import SessionLock
from valley2_edge.runtime.stats import Statistics, StopReason
from valley2_edge.runtime.turn import Turn
from valley2_edge.text_limits import check_text

_WAIT_MS = 20
"""How long the core is waited for before Ctrl-C is looked at."""
_STAGES = {"prefill": "prefill", "tile": "siglip", "picture": "eagle", "load": "build"}
"""The stages of progress by the kinds of the core's events."""
_STOPS: dict[str, StopReason] = {"token": "token", "length": "length", "context": "context", "left": "stopped"}
"""Why an answer has ended, by the words of the core."""

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
        conversation: Conversation,
        options: SessionOptions,
        *,
        check_memory: Callable[[Sequence[Size], bool], None] | None = None,
        memory: MemoryChoice | None = None,
    ) -> None:
        self._engines = engines
        self._conversation = conversation
        self._check_memory = check_memory
        self.memory = memory
        """What was chosen to keep the model's limit on memory; None: it has none."""
        self._options = options
        self._policy = picked(Policy, options)
        self._context_length = options.context_length or engines.decoder.description.max_context
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
        c_text(question, "The question")
        think = self._options.think if think is None else think
        report = self._lock.calling(on_progress or ignore_progress)
        with self._lock.held(wait=False):
            if self._closed:
                raise InputError("The session is closed.")
            # Only now, since an iterator of pictures can be read but once.
            images, video = sort_sources(images, video)
            if not question.strip() and not images and video is None:
                raise InputError("The question is empty.")
            turn = Request(question, think, images, video, frames, sampling, report)
            self._end_answer()
            # From here on a cancel is meant for this question, even before it is iterated.
            self._cancel.clear()
            seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
            self.statistics = Statistics(context_length=self._context_length, seed=seed)
            answer = AnswerStream(self._run(turn, self.statistics), self._lock, self.statistics)
            self._answer = weakref.ref(answer)
            return answer

    def ask_async(
        self,
        question: str,
        *,
        images: ImageSources = (),
        video: VideoSource | None = None,
        **options: Any,
    ) -> AsyncGenerator[str, None]:
        """Asks a question in a program that runs an event loop: `async for piece in session.ask_async(...)`.

        A thread of its own waits for the pieces. Cancelling the task that iterates cancels the answer, as `cancel`
        does; leaving the loop ends it. `on_progress` is called on that thread.

        Args:
            question: As in `ask`.
            images: As in `ask`.
            video: As in `ask`.
            **options: What else `ask` takes.

        Returns:
            The pieces of the answer; iterating raises what the iterator of `ask` raises.

        Raises:
            InputError: As `ask` raises it, at once.
        """
        return asynchronous_pieces(self.ask(question, images=images, video=video, **options), self.cancel)

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
        return tuple(
            Turn(question=question, pictures=pictures, answer=answer)
            for question, pictures, answer in map(self._conversation.turn, range(self._conversation.state.turns))
        )

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
            self._conversation.save(path)

    @staticmethod
    def load(path: str | os.PathLike[str], model: Valley2) -> Session:
        """Goes on with a saved session; as `Valley2.resume`."""
        return model.resume(path)

    @property
    def context_used(self) -> int:
        """Positions in the context."""
        return self._conversation.state.length

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
                self._conversation.close()

    def _end_answer(self) -> None:
        answer = self._answer() if self._answer is not None else None
        if answer is not None:
            answer.end()

    def _run(self, turn: Request, statistics: Statistics) -> Generator[str, None, None]:
        begin = time.perf_counter()
        answer: Answer | None = None
        loaded, left = 0.0, False
        reading = contextlib.ExitStack()
        try:
            pictures = self._open_pictures(turn)
            self._cancel.check()
            loaded = time.perf_counter() - begin
            reading.enter_context(self._engines.vision.answering(lambda: left or self._cancel.cancelled))
            answer = self._conversation.ask(
                turn.question,
                pictures,
                turn.sampling,
                video=turn.video is not None,
                think=turn.think,
                seed=statistics.seed,
            )
            del pictures  # the core keeps what it needs of them
            yield from self._read(answer, turn, statistics, loaded)
        except GeneratorExit:
            statistics.stop = "stopped"
            raise
        except (Cancelled, KeyboardInterrupt):
            statistics.stop = "cancelled"
            raise
        finally:
            left = True
            if answer is not None and answer.is_open:
                statistics.note(answer.statistics, loaded)
                answer.close()
            reading.close()
            if self._conversation.is_open:  # an interpreter that ends may close it first
                state = self._conversation.state
                statistics.context_used, statistics.kv_bytes = state.length, state.kv_bytes
            if statistics.pictures and self._engines.vision.is_open:
                statistics.providers = dict(self._engines.vision.providers)
            statistics.total_seconds = time.perf_counter() - begin

    def _open_pictures(self, turn: Request) -> list[Picture]:
        check = self._check_memory
        pictures = open_pictures(turn.images, turn.video, turn.frames, self._policy, self._cancel, check)
        if pictures and check is not None:
            # What is wrong with a shape the core says with its place.
            with contextlib.suppress(InputError):
                check([picture.size for picture in pictures], turn.video is not None)
        return pictures

    def _read(self, answer: Answer, turn: Request, statistics: Statistics, loaded: float) -> Iterator[str]:
        after_token = False
        while True:
            if after_token:  # a token comes with its text, which is the answer's whoever cancels now
                event = answer.next(0)
            else:
                with self._cancel.stopping(answer.cancel):
                    event = answer.next(_WAIT_MS)
            after_token = event.kind == "token"
            if event.kind == "text":
                statistics.note(answer.statistics, loaded)
                yield event.text
            elif event.kind == "token":
                # One more may be computed already; who leaves the answer never sees it.
                statistics.new_tokens = event.done
                turn.report("decode", event.done, event.total)
            elif event.kind in _STAGES:
                turn.report(_STAGES[event.kind], event.done, event.total)
            elif event.kind == "warning":
                warnings.warn(event.text, Valley2Warning, stacklevel=2)
            elif event.kind == "end":
                self._end(event.reason, statistics)
                return

    def _end(self, reason: str, statistics: Statistics) -> None:
        """What the core's own end of an answer means here."""
        if reason == "cancelled":
            raise Cancelled("The answer was cancelled.")
        statistics.stop = _STOPS[reason]
        if reason == "context":
            message = f"The answer ends here: the context of {statistics.context_length} positions is full."
            warnings.warn(message, Valley2Warning, stacklevel=2)
