"""The Qwen2.5 decoder in ONNX Runtime: a shareable `OnnxDecoder`, with the interface of the native `Decoder`."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from valley2_edge.bundle import (
    NATIVE_DECODER_FILES,
    ONNX_EMBEDDINGS_FILE,
    ONNX_WEIGHTS_FILE,
    Bundle,
    onnx_decoder_file,
    onnx_head_file,
)
from valley2_edge.errors import BundleError, InputError, Valley2Error, Valley2Warning
from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.options import LoadOptions, SessionOptions, changed
from valley2_edge.precisions import OnnxArithmetic
from valley2_edge.runtime.cancellation import run_interruptibly
from valley2_edge.runtime.core.binding import REUSE_NUMBERS, number_of, token_array, unsigned
from valley2_edge.runtime.core.decoder_engine import DecoderDescription, PrefixCacheState
from valley2_edge.runtime.core.process_memory import trim_heap
from valley2_edge.runtime.onnx.decoder_session import OnnxDecoderSession
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
_KV_PRECISIONS: dict[OnnxArithmetic, str] = {"int8": "fp32", "fp32": "fp32", "fp16": "fp16"}


class OnnxDecoder:
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
        InputError: An option means nothing, device and providers contradict each other, or what they name is not to be
            had.
    """

    def __init__(self, bundle: Bundle, options: LoadOptions = LoadOptions(), **changes: Any) -> None:
        asked = changed(options, changes)
        device = asked.device
        wanted = decoder_providers(device, asked.providers)
        self._bundle = bundle
        self._threads = asked.threads or _usable_processors()
        self._lock = threading.RLock()
        self._open_sessions = 0
        self._closed = False
        self._graphs: dict[str, onnxruntime.InferenceSession] = {}
        self.provider, self.arithmetic = self._load(asked.activations, wanted)
        if device == "cuda" and self.provider == CPU_PROVIDER:
            raise InputError(
                f"device is 'cuda', but ONNX Runtime could not use {wanted[0]}; its libraries or a GPU miss."
            )
        self.description = self._describe(device)

    @property
    def finest_kv_precision(self) -> str:
        """The only `kv_precision` that the loaded graphs have."""
        return _KV_PRECISIONS[self.arithmetic]

    @property
    def device(self) -> str:
        """Where keys and values lie, as ONNX Runtime calls it."""
        return _DEVICES.get(self.provider, "cpu")

    def graph(self, name: str) -> onnxruntime.InferenceSession:
        """A loaded graph: embeddings, layers or head.

        Raises:
            Valley2Error: The decoder is closed.
        """
        if self._closed or name not in self._graphs:
            raise Valley2Error("The decoder is closed.")
        return self._graphs[name]

    def embed(self, tokens: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Rows of the embedding table.

        Args:
            tokens: Ids, (n,).

        Returns:
            (n, hidden_size) float32.

        Raises:
            InputError: An id is outside the vocabulary.
        """
        ids = self.check_tokens(tokens)
        if len(ids) == 0:
            return np.empty((0, self.description.hidden_size), np.float32)
        inputs = {"input_ids": ids[None].astype(np.int64)}
        rows: npt.NDArray[np.float32] = self.graph("embeddings").run(None, inputs)[0][0]
        return rows

    def check_tokens(self, tokens: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Token ids of any integer type as (n,) int32.

        Raises:
            InputError: They are no ids of the vocabulary.
        """
        ids = token_array(tokens)
        size = self.description.vocabulary_size
        outside = ids[(ids < 0) | (ids >= size)]
        if len(outside):
            raise InputError(f"The token {outside[0]} is outside the vocabulary of {size}.")
        return ids

    def session(
        self, options: SessionOptions = SessionOptions(), *, reuse: str = "off", **changes: Any
    ) -> OnnxDecoderSession:
        """A new, empty session.

        Args:
            options: Its kv_precision must be auto, or the precision that the graphs have.
            reuse: "auto" or "off", which are the same here: sessions share no keys and values.
            **changes: Fields of `SessionOptions` that differ from `options`.

        Raises:
            InputError: An option is out of range.
        """
        wanted = changed(options, changes)
        kv_precision = wanted.kv_precision
        number_of("reuse", reuse, REUSE_NUMBERS)
        if kv_precision not in ("auto", self.finest_kv_precision):
            raise InputError(
                f"kv_precision is {kv_precision!r}; the ONNX decoder keeps keys and values in "
                f"{self.finest_kv_precision} on {self.provider}, so it must be auto or {self.finest_kv_precision}."
            )
        return OnnxDecoderSession(self, wanted.context_length, wanted.prefill_chunk)

    def load_session(self, path: Path) -> OnnxDecoderSession:
        """Refuses: only the native decoder's sessions are saved.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{path} cannot be gone on with: the sessions of an ONNX decoder are not saved.")

    @property
    def prefix_cache(self) -> PrefixCacheState:
        """Empty: sessions share no keys and values."""
        return PrefixCacheState(0, 0, 0)

    def resize_prefix_cache(self, budget_bytes: int) -> None:
        """Takes any budget, because nothing is kept.

        Raises:
            InputError: It is no number of bytes.
        """
        unsigned("prefix_cache_bytes", budget_bytes, LARGEST_UINT64)

    def trim(self) -> None:
        """Gives freed memory back; the weights stay, as ONNX Runtime has packed them."""
        trim_heap()

    def close(self) -> None:
        """Gives the weights back, as soon as the last of its sessions is closed as well."""
        with self._lock:
            self._closed = True
            self._free_if_unused()

    def add_session(self) -> None:
        """A session is open that needs the weights."""
        with self._lock:
            self._open_sessions += 1

    def remove_session(self) -> None:
        """A session that needed the weights is closed."""
        with self._lock:
            self._open_sessions -= 1
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self._closed and self._open_sessions == 0:
            self._graphs.clear()

    def _load(self, activations: str, wanted: list[str]) -> tuple[str, OnnxArithmetic]:
        """Loads the graphs; an accelerator that gives nothing is left with a word for the processor."""
        self._graphs["embeddings"] = self._open(ONNX_EMBEDDINGS_FILE, [CPU_PROVIDER])
        if wanted[0] != CPU_PROVIDER:
            layers = self._open(onnx_decoder_file("fp16"), wanted)
            got = str(layers.get_providers()[0])
            if got != CPU_PROVIDER:
                self._graphs |= {"layers": layers, "head": self._open(onnx_head_file("fp16"), wanted)}
                if got != wanted[0]:
                    _warn(got, wanted[0])
                return got, "fp16"
            _warn(got, wanted[0])
        exact = activations == "int16" or onnx_decoder_file("int8") not in self._bundle.manifest.files
        arithmetic: OnnxArithmetic = "fp32" if exact else "int8"
        self._graphs["layers"] = self._open(onnx_decoder_file(arithmetic), [CPU_PROVIDER])
        self._graphs["head"] = self._open(onnx_head_file(arithmetic), [CPU_PROVIDER])
        return CPU_PROVIDER, arithmetic

    def _open(self, name: str, providers: list[str]) -> onnxruntime.InferenceSession:
        path = self._bundle.path(name)

        def load() -> Any:
            return open_graph(path, self._options(), with_options(providers))

        try:
            with self._bundle.unchanged(name, ONNX_WEIGHTS_FILE, NATIVE_DECODER_FILES[1]):
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

    def _describe(self, device: str | None) -> DecoderDescription:
        manifest = self._bundle.manifest
        config, files = manifest.architecture.decoder, manifest.files
        on_gpu = self.provider == CUDA_PROVIDER
        return DecoderDescription(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=config.head_size,
            vocabulary_size=config.vocab_size,
            max_context=config.max_position_embeddings,
            threads=self._threads,
            isa=f"{self.provider}, {self.arithmetic}",
            weight_bytes=files[ONNX_WEIGHTS_FILE].size,
            mapped_bytes=sum(files[name].size for name in manifest.decoder.files),
            device="cuda" if on_gpu else "cpu",
            gpu_layers=config.num_hidden_layers if on_gpu else 0,
            gpu_bytes=files[ONNX_WEIGHTS_FILE].size if on_gpu else 0,
            device_name=self.provider if on_gpu else "",
            device_reason="ONNX Runtime offers no GPU here" if device == "auto" and not on_gpu else "",
        )

    def __enter__(self) -> OnnxDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _warn(got: str, wanted: str) -> None:
    message = f"The decoder runs on {got}: {wanted} could not be used."
    warnings.warn(message, Valley2Warning, stacklevel=4)
