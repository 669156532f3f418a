"""One conversation with the ONNX decoder; the methods mean what those of the native `DecoderSession` mean."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import BudgetError, Cancelled, InputError, NumericError, Valley2Error
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import array_pointer, unsigned
from valley2_edge.runtime.core.decoder_engine import OnProgress, OnToken, Segment
from valley2_edge.runtime.core.generation import GenerateOptions, GenerationCounters, StopReason
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.sampling import seed_of_step
from valley2_edge.runtime.onnx.kv_cache import OnnxKvCache
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime
from valley2_edge.runtime.onnx.providers import translated

if TYPE_CHECKING:
    from valley2_edge.runtime.onnx.decoder import OnnxDecoder

Array = npt.NDArray[np.float32]

DEFAULT_PREFILL_CHUNK = 256
_MOST_PREFILL_CHUNK = 1 << 16
_NO_TOKEN = -1


class OnnxDecoderSession:
    """Belongs to one thread at a time; only `cancel` may come from another."""

    def __init__(self, decoder: OnnxDecoder, context_length: int, prefill_chunk: int) -> None:
        about = decoder.description
        self._context_length = unsigned("context_length", context_length) or about.max_context
        if self._context_length > about.max_context:
            raise InputError(
                f"context_length is {context_length}, but the model was trained for {about.max_context} positions."
            )
        self._chunk = unsigned("prefill_chunk", prefill_chunk) or DEFAULT_PREFILL_CHUNK
        if self._chunk > _MOST_PREFILL_CHUNK:
            raise InputError(f"prefill_chunk is {prefill_chunk}; at most {_MOST_PREFILL_CHUNK} positions are possible.")
        self._decoder = decoder
        dtype = np.float16 if decoder.finest_kv_precision == "fp16" else np.float32
        self._cache = OnnxKvCache(
            about.layers, about.kv_heads, about.head_size, dtype, self._context_length, decoder.device
        )
        self._tokens: list[int] = []
        """One for each position, `_NO_TOKEN` for an embedding that the caller gave."""
        self._undecoded = False
        """A cancel cut the last token's step short: it is not in the cache."""
        self._logits: Array = np.empty((0, about.vocabulary_size), np.float32)
        self._counters = GenerationCounters(0, 0, 0, 0, 0, 0)
        self._cancelled = False
        self._closed = False
        self._call_lock = threading.RLock()
        self._running_in: int | None = None
        self._run_options: Any = None
        decoder.add_session()

    @property
    def length(self) -> int:
        """Positions in the KV cache."""
        return len(self._tokens)

    @property
    def kv_bytes(self) -> int:
        """Bytes that the KV cache holds now."""
        return self._cache.bytes

    @property
    def counters(self) -> GenerationCounters:
        """What `generate` and `prefill` have cost since the session was opened."""
        return self._counters

    def prefill(self, segments: Sequence[Segment], logit_rows: int = 1, on_progress: OnProgress | None = None) -> None:
        """Appends segments to the session; after a failure or a cancellation it is as it was before.

        Args:
            segments: Token ids (n,) int32 and embeddings (n, hidden_size) float32, in order.
            logit_rows: Number of last positions whose logits are kept for `logits`; at least one is always kept.
            on_progress: Called after every chunk.

        Raises:
            InputError: A segment has the wrong shape or an id outside the vocabulary.
            BudgetError: The context or the memory does not suffice.
            Cancelled: `cancel` was called or on_progress returned False.
            NumericError: A NaN or an infinity.
        """
        with self._call():
            parts = [self._checked(segment) for segment in segments]
            total = sum(len(part) for part in parts)
            self._check_room(total)
            self._check_cancelled()
            self._catch_up()
            kept = min(max(unsigned("logit_rows", logit_rows), 1), total)
            start = self.length
            self._reserve(start + total)
            rows: list[Array] = []
            for done in range(0, total, self._chunk):
                end = min(done + self._chunk, total)
                hidden = self._run_layers(self._embedded(parts, done, end), start + done)
                first = max(total - kept, done)
                if first < end:
                    rows.append(self._run_head(hidden[first - done :]))
                if on_progress is not None and on_progress(end, total) is False:
                    raise Cancelled("The call was cancelled by its callback.")
            self._logits = np.concatenate(rows)
            for part in parts:
                self._tokens += part.tolist() if part.ndim == 1 else [_NO_TOKEN] * len(part)
            before = self._counters.prefilled_positions
            self._counters = dataclasses.replace(self._counters, prefilled_positions=before + total)

    def logits(self, rows: int = 1) -> Array:
        """The last rows of logits kept by the last prefill or decode step.

        Returns:
            (rows, vocabulary_size) float32.

        Raises:
            InputError: Fewer rows are kept.
        """
        if not 0 < rows <= len(self._logits):
            raise InputError(f"{rows} rows of logits were asked for, but {len(self._logits)} are kept.")
        return self._logits[-rows:].copy()

    def generate(self, options: GenerateOptions, on_token: OnToken | None = None) -> StopReason:
        """Chooses tokens, reports each and decodes it; every reported token is in the session afterwards.

        Raises:
            InputError: An option is out of range, drafts are demanded, or nothing was prefilled before.
            BudgetError: The memory does not suffice.
            Cancelled: `cancel` was called or on_token returned False.
            NumericError: A NaN or an infinity.
        """
        if options.speculation == "always":
            raise InputError("The ONNX decoder makes no drafts: speculation must be auto or off.")
        options.struct()  # every field is checked before the first token
        with self._call():
            self._catch_up()
            done = 0
            while options.max_new_tokens == 0 or done < options.max_new_tokens:
                self._check_cancelled()
                token = self._choose(dataclasses.replace(options, seed=seed_of_step(options.seed or 0, done)))
                if token in options.stop_tokens:
                    return StopReason.TOKEN
                if self.length == self._context_length:
                    return StopReason.CONTEXT
                self._reserve(self.length + 1)
                go_on = on_token is None or on_token(token) is not False
                self._tokens.append(token)
                self._undecoded = True
                self._catch_up()
                done += 1
                if not go_on:
                    raise Cancelled("The call was cancelled by its callback.")
            return StopReason.LENGTH

    def truncate(self, length: int) -> None:
        """Forgets all positions from `length` on; prefill at least one before the next `generate`.

        Raises:
            InputError: The session is shorter.
        """
        with self._call():
            if not 0 <= length <= self.length:
                raise InputError(f"The session has {self.length} positions and cannot be truncated to {length}.")
            self._undecoded = self._undecoded and length == self.length
            del self._tokens[length:]
            self._logits = self._logits[:0]

    @property
    def note(self) -> str:
        """Empty: no session of this kind was loaded from a file."""
        return ""

    def save(self, path: Path, note: str = "") -> None:
        """Refuses: only the native decoder's sessions are saved.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{path} was not written: the session of an ONNX decoder cannot be saved.")

    def cancel(self) -> None:
        """Stops the running call, or else the next ones, until `resume`; legal from every thread."""
        self._cancelled = True
        running = self._run_options
        if running is not None:
            running.terminate = True

    def resume(self) -> None:
        """Ends the effect of `cancel`."""
        self._cancelled = False

    def close(self) -> None:
        """Frees the KV cache. A call that runs in another thread is cancelled first.

        Raises:
            Valley2Error: Called from a callback of the session's own call.
        """
        if self._running_in == threading.get_ident():
            raise Valley2Error("A session cannot be closed by its own callback.")
        self.cancel()
        with self._call_lock:
            if self._closed:
                return
            self._closed = True
            self._cache = OnnxKvCache(0, 0, 0, np.float32, 0, "cpu")
            self._logits = self._logits[:0]
        self._decoder.remove_session()

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._call_lock:
            if self._closed:
                raise Valley2Error("The session is closed.")
            if self._running_in is not None:
                raise Valley2Error("The session is in the middle of a call; its callbacks can only cancel.")
            self._running_in = threading.get_ident()
            try:
                yield
            finally:
                self._running_in = None

    def _checked(self, segment: Segment) -> npt.NDArray[Any]:
        array = np.asarray(segment)
        if array.ndim == 1:
            return self._decoder.check_tokens(array)
        hidden_size = self._decoder.description.hidden_size
        if array.ndim != 2 or array.shape[1] != hidden_size:
            raise InputError(f"A segment must be ids (n,) or embeddings (n, {hidden_size}), not {array.shape}.")
        return array.astype(np.float32, copy=False)

    def _check_room(self, positions: int) -> None:
        if positions == 0:
            raise InputError("There is nothing to prefill: the segments have no positions.")
        if positions > self._context_length - self.length:
            raise BudgetError(
                f"The prompt needs {positions} positions after the {self.length} in use, but the context holds "
                f"{self._context_length}."
            )

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled("The call was cancelled.")

    def _reserve(self, positions: int) -> None:
        try:
            self._cache.reserve(positions, self.length)
        except MemoryError as error:
            raise BudgetError(
                f"The memory does not suffice for the keys and values of {positions} positions."
            ) from error

    def _embedded(self, parts: list[npt.NDArray[Any]], first: int, last: int) -> Array:
        """Positions first..last of the segments: (last - first, hidden_size)."""
        pieces, begin = [], 0
        for part in parts:
            piece = part[max(first - begin, 0) : max(last - begin, 0)]
            if len(piece):
                pieces.append(piece if piece.ndim == 2 else self._decoder.embed(piece))
            begin += len(part)
        return np.ascontiguousarray(np.concatenate(pieces))

    def _run_layers(self, rows: Array, past: int) -> Array:
        """Hidden states (n, hidden_size) of rows (n, hidden_size) that stand at `past` and after it."""
        hidden: Array = np.empty(rows.shape, np.float32)
        mask = np.ones((1, past + len(rows)), np.int64)

        def bind(binding: Any) -> None:
            binding.bind_cpu_input("inputs_embeds", rows[None])
            binding.bind_cpu_input("attention_mask", mask)
            self._cache.bind(binding)
            binding.bind_output("hidden_states", "cpu", 0, np.float32, (1, *hidden.shape), hidden.ctypes.data)

        self._run("layers", bind)
        if not np.isfinite(hidden).all():
            raise NumericError("The ONNX decoder's layers computed a NaN or an infinity.")
        return hidden

    def _run_head(self, hidden: Array) -> Array:
        """Logits (n, vocabulary_size) of hidden states (n, hidden_size)."""
        logits: Array = np.empty((len(hidden), self._decoder.description.vocabulary_size), np.float32)

        def bind(binding: Any) -> None:
            binding.bind_cpu_input("hidden_states", np.ascontiguousarray(hidden[None]))
            binding.bind_output("logits", "cpu", 0, np.float32, (1, *logits.shape), logits.ctypes.data)

        self._run("head", bind)
        if not np.isfinite(logits).all():
            raise NumericError("The ONNX decoder's lm_head computed a NaN or an infinity.")
        return logits

    def _run(self, graph: str, bind: Callable[[Any], None]) -> None:
        session = self._decoder.graph(graph)
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = 4  # a terminated run is no error to write about
        binding = session.io_binding()
        bind(binding)
        self._run_options = options
        try:
            self._check_cancelled()
            session.run_with_iobinding(binding, options)
        except Cancelled:
            raise
        # onnxruntime's exceptions have no common base of their own.
        except Exception as error:
            self._check_cancelled()
            raise translated("decoder", error) from error
        finally:
            self._run_options = None

    def _choose(self, options: GenerateOptions) -> int:
        """The native core's choice, so that both engines give the same answer for the same logits."""
        if len(self._logits) == 0:
            raise InputError("There are no logits to choose a token from; prefill at least one position first.")
        seen = np.unique(np.array([token for token in self._tokens if token != _NO_TOKEN], np.int32))
        last = np.ascontiguousarray(self._logits[-1])
        token = ffi.new("int32_t *")
        status = library().v2e_choose_token(
            array_pointer(last), len(last), array_pointer(seen), len(seen), options.struct(), token
        )
        check(status)
        return int(token[0])

    def _catch_up(self) -> None:
        """Decodes the last token unless that is done; it was reported, so a cancel leaves it to the next call."""
        if not self._undecoded:
            return
        rows = self._decoder.embed(self._tokens[-1:])
        self._logits = self._logits[:0]  # a failure leaves none to go on from
        try:
            self._logits = self._run_head(self._run_layers(rows, self.length - 1))
        except Cancelled:
            raise
        except Valley2Error:
            self._tokens.pop()
            self._undecoded = False
            raise
        self._undecoded = False
        before = self._counters
        self._counters = dataclasses.replace(before, tokens=before.tokens + 1, steps=before.steps + 1)

    def __enter__(self) -> OnnxDecoderSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
