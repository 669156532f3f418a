"""What the decoder takes of memory in ONNX Runtime, which is known before any graph is loaded (docs/memory.md)."""

from __future__ import annotations

from dataclasses import dataclass

from valley2_edge.bundle import ONNX_WEIGHTS_FILE, Bundle, onnx_decoder_file
from valley2_edge.precisions import OnnxArithmetic
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost, BackendEngine

KV_TYPES: dict[OnnxArithmetic, str] = {"int8": "float32", "fp32": "float32", "fp16": "float16"}
"""The type of keys and values in the graphs of an arithmetic, as NumPy calls it."""
_KV_BYTES = {"float32": 4, "float16": 2}
_FLOAT_BYTES = 4
_PACKED_PERCENT = 125
"""Packed weights, with what is left of the file that they were read from."""
_ARENA_PERCENT = 150
"""The arena takes more than what is in use at once: it grows by steps and cannot move anything."""
_HEAD_ROWS = 16384
"""Exact arithmetic dequantises so many rows of the output matrix at a time (export/decoder_onnx/graph.py)."""


def cpu_arithmetic(bundle: Bundle, activations: str) -> OnnxArithmetic:
    """The arithmetic of the graphs that compute on the processor.

    Args:
        bundle: Whose decoder is in graphs.
        activations: As in `LoadOptions`: int16 stands for float32, which is finer still.
    """
    exact = activations == "int16" or onnx_decoder_file("int8") not in bundle.manifest.files
    return "fp32" if exact else "int8"


@dataclass(frozen=True)
class OnnxDecoderCost:
    """The decoder in ONNX Runtime as a plan needs it: a backend that opens nothing."""

    bundle: Bundle
    arithmetic: OnnxArithmetic
    on_gpu: bool
    """Whether weights, keys, values and activations are on a GPU."""
    name: str = "ONNX Runtime"

    def open(self, component: BackendComponent) -> BackendEngine:
        """Refuses: it is for plans alone."""
        raise NotImplementedError(f"{component} cannot be opened by a backend that only knows its cost")

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What the decoder takes; the arguments are those of `Backend.cost`.

        What a GPU holds is assumed: its weights are taken to be as large as their file.
        """
        config = self.bundle.manifest.architecture.decoder
        file_bytes = self.bundle.manifest.files[ONNX_WEIGHTS_FILE].size
        kv_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size * positions
        kv_bytes = kv_values * _KV_BYTES[KV_TYPES[self.arithmetic]]
        # Residual, norm, queries, keys, values and the MLP's four middles; attention holds the scores of all heads.
        floats = count * (5 * config.hidden_size + 4 * config.intermediate_size)
        floats += count * config.num_attention_heads * positions
        exact = self.arithmetic == "fp32"
        block = min(config.vocab_size, _HEAD_ROWS) * config.hidden_size * _FLOAT_BYTES if exact else 0
        # When the cache grows for the last time, half of it is there twice.
        work_bytes = floats * _FLOAT_BYTES * _ARENA_PERCENT // 100 + block + kv_bytes // 2
        hidden_bytes = count * config.hidden_size * _FLOAT_BYTES
        if self.on_gpu:
            return BackendCost(
                work_bytes=max(file_bytes, hidden_bytes),  # weights pass through when they are loaded
                gpu_weight_bytes=file_bytes,
                gpu_work_bytes=work_bytes,
                gpu_kv_bytes=kv_bytes,
            )
        return BackendCost(file_bytes * _PACKED_PERCENT // 100, work_bytes + hidden_bytes, kv_bytes)
