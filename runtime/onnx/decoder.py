"""The Qwen2.5 decoder in ONNX Runtime, a backend of the core."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from valley2_edge.bundle import ONNX_WEIGHTS_FILE, Bundle, onnx_decoder_file, onnx_head_file
from valley2_edge.errors import BundleError, InputError, Valley2Warning
from valley2_edge.options import LoadOptions, changed
from valley2_edge.precisions import OnnxArithmetic
from valley2_edge.runtime.cancellation import run_interruptibly
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost
from valley2_edge.runtime.onnx.decoder_cost import KV_TYPES, OnnxDecoderCost, cpu_arithmetic
from valley2_edge.runtime.onnx.decoder_engine import OnnxDecoderEngine
from valley2_edge.runtime.onnx.kv_cache import OnnxKvCache
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime, open_graph
from valley2_edge.runtime.onnx.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    decoder_providers,
    first_line,
    with_options,
)

if TYPE_CHECKING:
    import onnxruntime

_DEVICES = {CUDA_PROVIDER: "cuda"}
"""Where a provider keeps keys and values; those of all others lie in the process's own memory."""


class OnnxDecoderBackend:
    """The graphs of a bundle's decoder, loaded; immutable, shared by sessions.

    Args:
        bundle: Whose decoder was exported with `--decoder-engine onnx`.
        options: What concerns a decoder in ONNX Runtime in the options of loading. `activations` count on the
            processor: int8 rounds them where weights are quantised, int16 computes in float32, which is finer still;
            other providers compute in fp16. A `device` of cuda fails where ONNX Runtime gives the processor instead;
            None takes what `providers` say, which by default is CUDA where this installation has it.
        **changes: Fields of `LoadOptions` that differ from `options`.

    Raises:
        BundleError: A graph is missing or cannot be loaded.
        InputError: Device and providers contradict each other, or what they name is not to be had.
    """

    def __init__(self, bundle: Bundle, options: LoadOptions = LoadOptions(), **changes: Any) -> None:
        asked = changed(options, changes)
        wanted = decoder_providers(asked.device, asked.providers)
        self._bundle = bundle
        self._threads = asked.threads or usable_processors()
        self._layers, self._head, self.arithmetic = self._load(asked.activations, wanted)
        self.provider = str(self._layers.get_providers()[0])
        """What ONNX Runtime really gave."""
        if asked.device == "cuda" and self.provider == CPU_PROVIDER:
            raise InputError(
                f"device is 'cuda', but ONNX Runtime could not use {wanted[0]}; its libraries or a GPU miss."
            )

    @property
    def name(self) -> str:
        """What it is called in messages and reports."""
        return f"ONNX Runtime ({self.provider}, {self.arithmetic})"

    @property
    def device(self) -> str:
        """Where keys and values lie, as ONNX Runtime calls it."""
        return _DEVICES.get(self.provider, "cpu")

    def open(self, component: BackendComponent) -> OnnxDecoderEngine:
        """A new session of the decoder.

        Raises:
            InputError: It is another component.
        """
        if component != "decoder":
            raise InputError(f"{self.name} has loaded the decoder and no {component}.")
        config = self._bundle.manifest.architecture.decoder
        cache = OnnxKvCache(
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_size,
            KV_TYPES[self.arithmetic],
            config.max_position_embeddings,
            self.device,
        )
        return OnnxDecoderEngine(self._layers, self._head, cache)

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What the decoder takes of memory; the arguments are those of `Backend.cost`."""
        on_gpu = self.device == "cuda"
        return OnnxDecoderCost(self._bundle, self.arithmetic, on_gpu, self.name).cost(component, count, positions)

    def _load(
        self, activations: str, wanted: list[str]
    ) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession, OnnxArithmetic]:
        """Loads layers and head; an accelerator that gives nothing is left with a word for the processor."""
        if wanted[0] != CPU_PROVIDER:
            layers = self._open(onnx_decoder_file("fp16"), wanted)
            got = str(layers.get_providers()[0])
            if got != wanted[0]:
                _warn(got, wanted[0])
            if got != CPU_PROVIDER:
                return layers, self._open(onnx_head_file("fp16"), wanted), "fp16"
            del layers
        arithmetic = cpu_arithmetic(self._bundle, activations)
        layers, head = (
            self._open(name, [CPU_PROVIDER]) for name in (onnx_decoder_file(arithmetic), onnx_head_file(arithmetic))
        )
        return layers, head, arithmetic

    def _open(self, name: str, providers: list[str]) -> onnxruntime.InferenceSession:
        path = self._bundle.path(name)

        def load() -> Any:
            return open_graph(path, self._options(), with_options(providers))

        try:
            with self._bundle.unchanged(name, ONNX_WEIGHTS_FILE):
                return run_interruptibly(load, lambda: None)
        except BundleError:
            raise
        # onnxruntime's exceptions have no common base of their own.
        except Exception as error:
            raise BundleError(f"{path} cannot be loaded: {first_line(error)}") from error

    def _options(self) -> onnxruntime.SessionOptions:
        options: onnxruntime.SessionOptions = import_onnxruntime().SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Threads wait busily between the products of one step, and sleep between steps.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        options.enable_mem_pattern = False
        options.log_severity_level = 4
        return options


def usable_processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _warn(got: str, wanted: str) -> None:
    message = f"The decoder runs on {got}: {wanted} could not be used."
    warnings.warn(message, Valley2Warning, stacklevel=4)
