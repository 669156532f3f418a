"""A conversation with an open model, and the answers to its questions, as the core has them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.options import SamplingOptions, SessionOptions
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import (
    KV_PRECISION_NUMBERS,
    SPECULATION_NUMBERS,
    enum_numbers,
    new_struct,
    path_bytes,
    text_of,
)
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject
from valley2_edge.runtime.core.open_model import OpenModel
from valley2_edge.runtime.core.pictures import Picture

_EVENT_KINDS = {number: name for name, number in enum_numbers("v2e_event_kind", "V2E_EVENT_").items()}
_STOP_REASONS = {number: name for name, number in enum_numbers("v2e_stop_reason", "V2E_STOP_").items()}
_POLICY_NUMBERS = enum_numbers("v2e_policy", "V2E_POLICY_")
_PRESET_NUMBERS = enum_numbers("v2e_eagle_preset", "V2E_EAGLE_")
_KV_PRECISIONS = {number: name for name, number in KV_PRECISION_NUMBERS.items()}
_POLICIES = {number: name for name, number in _POLICY_NUMBERS.items()}
_PRESETS = {number: name for name, number in _PRESET_NUMBERS.items()}
_TOKENS_AHEAD = 1
"""Tokens that are computed before they are read: the next one, while the caller looks at the newest."""


@dataclass(frozen=True)
class AnswerEvent:
    """What an answer has to tell: the fields of v2e_event."""

    kind: str
    """none, prefill, token, layer, text, end, load, tile, picture or warning."""
    done: int
    total: int
    text: str
    reason: str
    """Why the answer has ended: token, length, context, text, cancelled or left; "none" before that."""


class Answer(NativeObject):
    """The answer to a question. One thread at a time reads it; `cancel` may come from any.

    Args:
        handle: A v2e_answer, which is closed with this.
        kept: What the answer needs as long as it is open.
    """

    def __init__(self, handle: Any, *kept: Any) -> None:
        self._handle = handle
        # Reentrant: a signal handler may cancel while this very thread holds the lock.
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self._event = new_struct("v2e_event")
        self._kept = kept
        _OPEN_ANSWERS.add(self)

    @property
    def handle(self) -> Any:
        """The v2e_answer.

        Raises:
            Valley2Error: The answer is closed.
        """
        if self._handle is None:
            raise Valley2Error("The answer is closed.")
        return self._handle

    def next(self, timeout_ms: int) -> AnswerEvent:
        """Waits for the next event; the interpreter goes on in the meantime.

        Args:
            timeout_ms: Milliseconds to wait at most; without an event by then it is one of the kind "none".

        Raises:
            Valley2Error: The question has failed; it has left no trace in the conversation.
        """
        event = self._event
        with self._reading:
            check(library().v2e_answer_next(self.handle, timeout_ms, event))
        text = bytes(ffi.buffer(event.text, event.size)).decode() if event.size else ""
        return AnswerEvent(
            _EVENT_KINDS[event.kind], int(event.done), int(event.total), text, _STOP_REASONS[event.reason]
        )

    @property
    def statistics(self) -> Any:
        """The v2e_statistics of the question so far."""
        struct = new_struct("v2e_statistics")
        check(library().v2e_answer_statistics(self.handle, struct))
        return struct

    def cancel(self) -> None:
        """Stops the answer; legal from every thread at any time."""
        with self._lock:
            if self._handle is not None:
                library().v2e_answer_cancel(self._handle)

    def close(self) -> None:
        """Ends the answer, of which the conversation keeps what was read."""
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            library().v2e_answer_close(handle)
            self._kept = ()

    def end_with_program(self) -> None:
        """Ends the answer before the interpreter does, which a backend in Python would call in vain."""
        self.cancel()
        if self._reading.acquire(timeout=_EXIT_SECONDS):  # or else a thread reads it that nobody waits for
            self._reading.release()
            self.close()


_OPEN_ANSWERS: weakref.WeakSet[Answer] = weakref.WeakSet()
_EXIT_SECONDS = 1.0


@atexit.register
def _end_answers() -> None:
    for answer in list(_OPEN_ANSWERS):
        answer.end_with_program()


@dataclass(frozen=True)
class ConversationState:
    """A conversation as it stands."""

    length: int
    """Positions in the context."""
    turns: int
    """Questions that are in it."""
    kv_bytes: int


class Conversation(NativeObject):
    """A conversation in the core; one thread at a time, as `Session` sees to it.

    Args:
        model: The model, which the conversation keeps, with the backends that compute for it.
        options: What holds for the whole conversation.
        saved: Instead of the options: the path of a saved one to go on with.

    Raises:
        InputError: An option is out of range; or the file is missing, no saved session, damaged, or of another bundle.
        BudgetError: The memory does not suffice.
    """

    def __init__(
        self,
        model: OpenModel,
        options: SessionOptions = SessionOptions(),
        *,
        saved: str | os.PathLike[str] | None = None,
    ) -> None:
        self._model = model
        handle = ffi.new("v2e_session **")
        if saved is None:
            check(library().v2e_session_open(model.handle, _session_struct(options), handle))
        else:
            check(library().v2e_session_load(model.handle, path_bytes(saved), handle))
        self._handle = handle[0]

    @property
    def handle(self) -> Any:
        """The v2e_session.

        Raises:
            Valley2Error: It is closed.
        """
        if self._handle is None:
            raise Valley2Error("The session is closed.")
        return self._handle

    def ask(
        self,
        text: str,
        pictures: Sequence[Picture],
        sampling: SamplingOptions,
        *,
        video: bool,
        think: bool,
        seed: int,
    ) -> Answer:
        """Asks; the answer is computed while it is read, one token ahead.

        Args:
            text: The question.
            pictures: What it is about.
            sampling: How tokens are chosen.
            video: The pictures are frames of one.
            think: Ask for the four-step answer.
            seed: Instead of the one of `sampling`.

        Raises:
            InputError: The question is empty, or an option is not acceptable.
        """
        words = ffi.new("char[]", c_text(text, "The question"))
        question = new_struct(
            "v2e_question",
            text=words,
            pictures=ffi.new("v2e_picture *[]", [picture.handle for picture in pictures]),
            picture_count=len(pictures),
            video=int(video),
            think=int(think),
            no_think=int(not think),
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            speculation=SPECULATION_NUMBERS[sampling.speculation],
            fixed_seed=1,
            seed=seed,
            token_events=1,
            most_ahead=_TOKENS_AHEAD,
        )
        handle = ffi.new("v2e_answer **")
        check(library().v2e_session_ask(self.handle, question, handle))
        return Answer(handle[0], self._model)

    @property
    def state(self) -> ConversationState:
        """Its length and memory."""
        about = self._describe()
        return ConversationState(int(about.length), int(about.turn_count), int(about.kv_bytes))

    @property
    def options(self) -> SessionOptions:
        """The options that hold in it: one that was loaded has its own."""
        given = self._describe().options
        return SessionOptions(
            policy=_POLICIES[given.policy],  # type: ignore[arg-type]
            strict=bool(given.strict),
            eagle=not given.no_eagle,
            tiles=not given.no_tiles,
            eagle_preset=_PRESETS[given.eagle_preset],  # type: ignore[arg-type]
            eagle_max_tokens=given.eagle_max_tokens or None,
            eagle_min_tokens=given.eagle_min_tokens or None,
            max_picture_pixels=int(given.max_picture_pixels),
            system=None if given.system == ffi.NULL else text_of(given.system),
            think=bool(given.think),
            context_length=given.context_length,
            kv_precision=_KV_PRECISIONS[given.kv_precision],
            prefill_chunk=given.prefill_chunk,
        )

    def turn(self, index: int) -> tuple[str, int, str]:
        """A question of the context, its number of pictures, and the answer as far as it came."""
        struct = new_struct("v2e_turn")
        check(library().v2e_session_turn(self.handle, index, struct))
        return text_of(struct.question), int(struct.pictures), text_of(struct.answer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file, which appears whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        check(library().v2e_session_save(self.handle, path_bytes(path)))

    def close(self) -> None:
        """Frees the KV cache; may be called again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            library().v2e_session_close(handle)

    def _describe(self) -> Any:
        struct = new_struct("v2e_session_description")
        check(library().v2e_session_describe(self.handle, struct))
        return struct


def c_text(text: str, what: str) -> bytes:
    """A text as the header takes it, which ends it at a NUL.

    Raises:
        InputError: The text holds one.
    """
    if "\0" in text:
        raise InputError(f"{what} holds a NUL, which is no text.")
    return text.encode()


def _session_struct(options: SessionOptions) -> Any:
    system = None if options.system is None else ffi.new("char[]", c_text(options.system, "The system prompt"))
    same = ("context_length", "prefill_chunk", "eagle_max_tokens", "eagle_min_tokens", "max_picture_pixels")
    flags = ("think", "strict")
    return new_struct(
        "v2e_session_options",
        system=system,
        kv_precision=KV_PRECISION_NUMBERS[options.kv_precision],
        policy=_POLICY_NUMBERS[options.policy],
        no_eagle=int(not options.eagle),
        no_tiles=int(not options.tiles),
        eagle_preset=_PRESET_NUMBERS[options.eagle_preset],
        **{name: getattr(options, name) for name in same},
        **{name: int(getattr(options, name)) for name in flags},
    )
