"""The layers and the output matrix of the decoder in ONNX Runtime, with the keys and values of one session."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from valley2_edge.errors import BudgetError, Cancelled, NumericError
from valley2_edge.runtime.core.backend import BackendRun, Floats
from valley2_edge.runtime.onnx.kv_cache import OnnxKvCache
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime
from valley2_edge.runtime.onnx.providers import translated

if TYPE_CHECKING:
    import onnxruntime


class OnnxDecoderEngine:
    """One session's part of `OnnxDecoderBackend`.

    Args:
        layers: The graph from inputs_embeds, keys and values to hidden_states, keys and values.
        head: The graph from hidden_states to logits.
        cache: Empty.
    """

    def __init__(
        self, layers: onnxruntime.InferenceSession, head: onnxruntime.InferenceSession, cache: OnnxKvCache
    ) -> None:
        self._layers = layers
        self._head = head
        self._cache = cache
        self._cancelled = False
        self._run_options: onnxruntime.RunOptions | None = None
        """The options of the graph that runs now."""

    def run(self, call: BackendRun) -> None:
        """Computes the positions behind `call.past` and the logits of the last ones, as `BackendEngine.run` says.

        Raises:
            BudgetError: The memory does not suffice.
            Cancelled: `cancel` was called.
            NumericError: A NaN or an infinity in the layers.
        """
        self._cancelled = False
        self._reserve(call.past + len(call.values), call.past)
        hidden = self._run_layers(call.values, call.past)
        if call.logit_rows:
            self._run_head(hidden[-call.logit_rows :], call.output.reshape(call.logit_rows, -1))

    def cancel(self) -> None:
        """Makes ONNX Runtime stop behind the node that it computes."""
        self._cancelled = True
        running = self._run_options
        if running is not None:
            running.terminate = True

    def close(self) -> None:
        """Frees keys and values, and lets the graphs go."""
        del self._cache, self._layers, self._head

    def _reserve(self, positions: int, used: int) -> None:
        try:
            self._cache.reserve(positions, used)
        except MemoryError as error:
            raise BudgetError(
                f"The memory does not suffice for the keys and values of {positions} positions."
            ) from error

    def _run_layers(self, rows: Floats, past: int) -> Floats:
        """Hidden states (n, hidden_size) of rows (n, hidden_size) that stand at `past` and after it."""
        hidden: Floats = np.empty(rows.shape, np.float32)
        mask = np.ones((1, past + len(rows)), np.int64)

        def bind(binding: Any) -> None:
            binding.bind_cpu_input("inputs_embeds", rows[None])
            binding.bind_cpu_input("attention_mask", mask)
            self._cache.bind(binding)
            binding.bind_output("hidden_states", "cpu", 0, np.float32, (1, *hidden.shape), hidden.ctypes.data)

        self._run(self._layers, bind)
        if not np.isfinite(hidden).all():
            raise NumericError("The ONNX decoder's layers computed a NaN or an infinity.")
        return hidden

    def _run_head(self, hidden: Floats, logits: Floats) -> None:
        """Writes the logits (n, vocabulary_size) of hidden states (n, hidden_size)."""

        def bind(binding: Any) -> None:
            binding.bind_cpu_input("hidden_states", np.ascontiguousarray(hidden[None]))
            binding.bind_output("logits", "cpu", 0, np.float32, (1, *logits.shape), logits.ctypes.data)

        self._run(self._head, bind)

    def _run(self, graph: onnxruntime.InferenceSession, bind: Callable[[Any], None]) -> None:
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = 4  # a terminated run is no error to write about
        binding = graph.io_binding()
        bind(binding)
        self._run_options = options
        try:
            self._check_cancelled()
            graph.run_with_iobinding(binding, options)
        except Cancelled:
            raise
        # onnxruntime's exceptions have no common base of their own.
        except Exception as error:
            self._check_cancelled()
            raise translated("decoder", error) from error
        finally:
            self._run_options = None

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled("The call was cancelled.")
