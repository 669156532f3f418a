"""One conversation with a decoder: its KV cache, and the calls that fill it and choose tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import (
    EventBridge,
    array_pointer,
    new_struct,
    path_bytes,
    struct_array,
    text_of,
    token_array,
    unsigned,
)
from valley2_edge.runtime.core.generation import GenerateOptions, GenerationCounters, StopReason
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject

if TYPE_CHECKING:
    from valley2_edge.runtime.core.decoder import Decoder

Segment = npt.NDArray[np.int32] | npt.NDArray[np.float32]
"""Token ids (n,) int32, or embeddings (n, hidden_size) float32."""
OnProgress = Callable[[int, int], bool | None]
"""Called with (positions done, positions in all); returning False cancels."""
OnToken = Callable[[int], bool | None]
"""Called with every new token id; returning False cancels."""


def _note_bytes(note: str) -> bytes:
    try:
        text = note.encode()
    except UnicodeEncodeError as error:
        raise InputError("The note of a session must be text; it holds half of a pair of surrogates.") from error
    if b"\0" in text:
        raise InputError("The note of a session must be text; it holds a NUL.")
    return text


class DecoderSession(NativeObject):
    """One conversation with a decoder. Belongs to one thread at a time; only `cancel` may come from another.

    Args:
        decoder: The decoder whose `session` made it.
        handle: A v2e_decoder_session, which is closed with this.
    """

    def __init__(self, decoder: Decoder, handle: Any) -> None:
        self._handle = handle
        self._handle_lock = threading.Lock()
        self._call_lock = threading.RLock()
        self._running_in: int | None = None  # the thread of the call that runs
        self._decoder = decoder
        decoder.add_session()

    @property
    def handle(self) -> Any:
        """The v2e_decoder_session.

        Raises:
            Valley2Error: the session is closed.
        """
        if self._handle is None:
            raise Valley2Error("The session is closed.")
        return self._handle

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """One call that runs for long; `close` from another thread waits for its end."""
        with self._call_lock:
            if self._running_in is not None:
                raise Valley2Error("The session is in the middle of a call; its callbacks can only cancel.")
            self._running_in = threading.get_ident()
            try:
                yield self.handle
            finally:
                self._running_in = None

    @property
    def length(self) -> int:
        """Positions in the KV cache."""
        return int(library().v2e_decoder_session_length(self.handle))

    @property
    def kv_bytes(self) -> int:
        """Bytes that the KV cache holds now."""
        return int(library().v2e_decoder_session_kv_bytes(self.handle))

    @property
    def counters(self) -> GenerationCounters:
        """What `generate` and `prefill` have cost since the session was opened."""
        struct = new_struct("v2e_decoder_session_counters")
        check(library().v2e_decoder_session_count(self.handle, struct))
        return GenerationCounters.of(struct)

    def prefill(self, segments: Sequence[Segment], logit_rows: int = 1, on_progress: OnProgress | None = None) -> None:
        """Appends segments to the session; after a failure or a cancellation it is as it was before.

        Args:
            segments: Token ids (n,) int32 and embeddings (n, hidden_size) float32, in order.
            logit_rows: Number of last positions whose logits are kept for `logits`; at least one is always kept.
            on_progress: Called after every chunk.

        Raises:
            InputError: a segment has the wrong shape or an id outside the vocabulary.
            BudgetError: the context or the memory does not suffice.
            Cancelled: `cancel` was called or on_progress returned False.
            NumericError: a NaN or an infinity; the text names the layer.
        """
        structs = struct_array("v2e_segment", [self._converted(segment) for segment in segments])
        rows = unsigned("logit_rows", logit_rows)
        bridge = EventBridge(lambda event: on_progress(int(event.done), int(event.total)) if on_progress else None)
        with self._call() as handle:
            status = library().v2e_decoder_session_prefill(
                handle, structs, len(structs), rows, bridge.function, ffi.NULL
            )
        bridge.finish(status)

    def _converted(self, segment: Segment) -> Any:
        """A segment as the header has it."""
        array = np.asarray(segment)
        if array.ndim == 1:
            ids = token_array(array)
            return new_struct("v2e_segment", tokens=array_pointer(ids), count=len(ids))
        hidden_size = self._decoder.description.hidden_size
        if array.ndim != 2 or array.shape[1] != hidden_size:
            raise InputError(f"A segment must be ids (n,) or embeddings (n, {hidden_size}), not {array.shape}.")
        rows = np.require(array, np.float32, ["C", "A"])
        return new_struct("v2e_segment", embeddings=array_pointer(rows), count=len(rows))

    def logits(self, rows: int = 1) -> npt.NDArray[np.float32]:
        """The last rows of logits kept by the last prefill or decode step.

        Returns:
            (rows, vocabulary_size) float32.

        Raises:
            InputError: fewer rows are kept.
        """
        kept = np.empty((unsigned("rows", rows), self._decoder.description.vocabulary_size), np.float32)
        check(library().v2e_decoder_session_logits(self.handle, rows, array_pointer(kept)))
        return kept

    def generate(self, options: GenerateOptions, on_token: OnToken | None = None) -> StopReason:
        """Chooses tokens, reports each and decodes it; every reported token is in the session afterwards.

        Raises:
            InputError: an option is out of range, or nothing was prefilled before.
            BudgetError: the memory does not suffice.
            Cancelled: `cancel` was called or on_token returned False.
            NumericError: a NaN or an infinity; the text names the layer.
        """
        struct = options.struct()
        bridge = EventBridge(lambda event: on_token(int(event.token)) if on_token else None)
        reason = ffi.new("v2e_stop_reason *")
        with self._call() as handle:
            status = library().v2e_decoder_session_generate(handle, struct, bridge.function, ffi.NULL, reason)
        bridge.finish(status)
        return StopReason(reason[0])

    @property
    def note(self) -> str:
        """What was given to `save` beside the session; empty when it was not loaded."""
        return text_of(library().v2e_decoder_session_note(self.handle))

    def save(self, path: Path, note: str = "") -> None:
        """Writes the session to a file, which appears whole or not at all.

        Args:
            path: Where to write; a file that is there is replaced.
            note: Any text, to be found again as `note`.

        Raises:
            InputError: the file cannot be written, the decoder is part of no bundle, or its keys and values are not at
                hand: it is on a GPU, or a backend computes it.
        """
        with self._call() as handle:
            check(library().v2e_decoder_session_save(handle, path_bytes(path), _note_bytes(note)))

    def truncate(self, length: int) -> None:
        """Forgets all positions from `length` on; prefill at least one before the next `generate`.

        Raises:
            InputError: the session is shorter.
        """
        with self._call() as handle:
            status = library().v2e_decoder_session_truncate(handle, unsigned("length", length, LARGEST_UINT64))
        check(status)

    def cancel(self) -> None:
        """Stops the running call, or else the next ones, until `resume`; legal from every thread."""
        with self._handle_lock:
            if self._handle is not None:
                library().v2e_decoder_session_cancel(self._handle)

    def resume(self) -> None:
        """Ends the effect of `cancel`."""
        library().v2e_decoder_session_resume(self.handle)

    def close(self) -> None:
        """Frees the KV cache. A call that runs in another thread is cancelled first.

        Raises:
            Valley2Error: called from a callback of the session's own call.
        """
        if self._running_in == threading.get_ident():
            raise Valley2Error("A session cannot be closed by its own callback.")
        self.cancel()
        with self._call_lock, self._handle_lock:
            if self._handle is None:
                return
            library().v2e_decoder_session_close(self._handle)
            self._handle = None
        self._decoder.remove_session()
