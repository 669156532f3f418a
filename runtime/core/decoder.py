"""The Qwen2.5 decoder as a Python object that sessions share, whoever computes it."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import Valley2Error
from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.options import LoadOptions, SessionOptions, changed, size_bytes
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.backend import Backend, BackendTable
from valley2_edge.runtime.core.binding import (
    ACTIVATIONS_NUMBERS,
    DEVICE_NUMBERS,
    ISA_NUMBERS,
    KV_PRECISION_NUMBERS,
    REUSE_NUMBERS,
    Stamp,
    array_pointer,
    new_struct,
    number_of,
    path_bytes,
    stamp_struct,
    struct_values,
    text_of,
    token_array,
    unsigned,
)
from valley2_edge.runtime.core.decoder_description import DecoderDescription, PrefixCacheState
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject
from valley2_edge.runtime.core.open_model import OpenModel


class Decoder(NativeObject):
    """A decoder in a bundle's `decoder` directory; immutable, shared by sessions.

    Args:
        directory: The directory with decoder.safetensors, which is mapped unless there is a backend, and
            embeddings.safetensors.
        options: What concerns the core's own kernels in the options of loading: threads, isa, activations, device,
            gpu_layers and gpu_memory. By default, and with None for the device, they run on the CPU. With a backend
            all but threads must be left at their defaults.
        backend: What computes the decoder; None: the core's kernels. It is let go with the decoder.
        gpu_context: Positions of a session that must fit beside the layers on the GPU; 0 is 4096.
        offload_weights: `trim` takes the weights off the GPU until they are used again.
        decoder_stamp: What decoder.safetensors was when it was checked; None accepts any file.
        embeddings_stamp: What embeddings.safetensors was when it was checked; None accepts any file.
        **changes: Fields of `LoadOptions` that differ from `options`.

    Raises:
        BundleError: a file is missing, damaged, not understood, or not the one that was checked.
        InputError: an option means nothing, or the machine lacks the instruction set or the GPU.
        BudgetError: the GPU has too little memory for the layers that were asked for.
        Exception: what the backend raises when it is asked for its cost.
    """

    def __init__(
        self,
        directory: Path,
        options: LoadOptions = LoadOptions(),
        *,
        backend: Backend | None = None,
        gpu_context: int = 0,
        offload_weights: bool = False,
        decoder_stamp: Stamp | None = None,
        embeddings_stamp: Stamp | None = None,
        **changes: Any,
    ) -> None:
        self._lock = threading.RLock()
        self._sessions = 0
        self._closed = False
        wanted = changed(options, changes)
        self.backend = backend
        """What computes it; None: the core's kernels, or it is closed."""
        table = None if backend is None else BackendTable(backend)
        self._table: BackendTable | OpenModel | None = table
        """What the handle needs as long as it is open."""
        struct = new_struct(
            "v2e_decoder_options",
            threads=wanted.threads,
            isa=ISA_NUMBERS[wanted.isa],
            activations=ACTIVATIONS_NUMBERS[wanted.activations],
            device=DEVICE_NUMBERS[wanted.device or "cpu"],
            gpu_layers=wanted.gpu_layers,
            gpu_context=unsigned("gpu_context", gpu_context),
            gpu_memory=unsigned("gpu_memory", size_bytes(wanted.gpu_memory), LARGEST_UINT64),
            offload_weights=int(offload_weights),
            decoder_stamp=stamp_struct(decoder_stamp),
            embeddings_stamp=stamp_struct(embeddings_stamp),
            backend=None if table is None else table.struct,
        )
        handle = ffi.new("v2e_decoder **")
        check(library().v2e_decoder_open(path_bytes(directory), struct, handle))
        self._handle = handle[0]
        self.description = self._describe()

    @classmethod
    def of_model(cls, model: OpenModel, backend: Backend | None) -> Decoder:
        """The decoder of an open model; `backend` is what computes it there."""
        made = cls.__new__(cls)
        made._lock, made._sessions, made._closed = threading.RLock(), 0, False
        made.backend = backend
        made._table = model
        made._handle = model.part("decoder")
        made.description = made._describe()
        return made

    def _describe(self) -> DecoderDescription:
        struct = new_struct("v2e_decoder_description")
        check(library().v2e_decoder_describe(self.handle, struct))
        names = [field.name for field in dataclasses.fields(DecoderDescription)]
        values = struct_values(struct, names)
        values["isa"] = text_of(library().v2e_isa_name(struct.isa)) if self.backend is None else self.backend.name
        values["device"] = next(name for name, number in DEVICE_NUMBERS.items() if number == struct.device)
        values |= {name: text_of(values[name]) for name in ("device_name", "device_reason")}
        return DecoderDescription(**values)

    @property
    def model(self) -> OpenModel:
        """The open model whose decoder this is.

        Raises:
            Valley2Error: The decoder was opened alone, or is closed.
        """
        if not isinstance(self._table, OpenModel):
            raise Valley2Error("The decoder is part of no open model.")
        return self._table

    @property
    def finest_kv_precision(self) -> str:
        """The `kv_precision` that loses least; a backend has one of its own."""
        return "fp32" if self.backend is None else "auto"

    @property
    def handle(self) -> Any:
        """The v2e_decoder.

        Raises:
            Valley2Error: the decoder is closed.
        """
        if self._handle is None or self._closed:
            raise Valley2Error("The decoder is closed.")
        return self._handle

    def embed(self, tokens: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Rows of the embedding table.

        Args:
            tokens: Token ids, (n,).

        Returns:
            (n, hidden_size) float32.

        Raises:
            InputError: an id is outside the vocabulary.
        """
        ids = token_array(tokens)
        rows = np.empty((len(ids), self.description.hidden_size), np.float32)
        check(library().v2e_decoder_embed(self.handle, array_pointer(ids), len(ids), array_pointer(rows)))
        return rows

    def session(
        self, options: SessionOptions = SessionOptions(), *, reuse: str = "off", **changes: Any
    ) -> DecoderSession:
        """A new, empty session.

        Args:
            options: What concerns the decoder in the options of a session: context_length, kv_precision, prefill_chunk.
            reuse: "auto" takes the keys and values of a beginning that another session of the decoder has computed, and
                leaves its own; "off" does neither. Does not change the result.
            **changes: Fields of `SessionOptions` that differ from `options`.

        Raises:
            InputError: An option is out of range.
        """
        wanted = changed(options, changes)
        struct = new_struct(
            "v2e_decoder_session_options",
            context_length=wanted.context_length,
            kv_precision=KV_PRECISION_NUMBERS[wanted.kv_precision],
            prefill_chunk=wanted.prefill_chunk,
            reuse=number_of("reuse", reuse, REUSE_NUMBERS),
        )
        handle = ffi.new("v2e_decoder_session **")
        check(library().v2e_decoder_session_open(self.handle, struct, handle))
        return DecoderSession(self, handle[0])

    def load_session(self, path: Path) -> DecoderSession:
        """A session that goes on where a saved one stood, with its precision, context and chunk.

        It shares nothing with other sessions: whoever wrote the file answers for what it holds.

        Args:
            path: A file that `DecoderSession.save` wrote.

        Raises:
            InputError: the file is missing, no saved session, damaged, or of another bundle; or the decoder is on a GPU
                or of a backend.
            BudgetError: the memory does not suffice.
        """
        options = new_struct("v2e_decoder_session_options")
        handle = ffi.new("v2e_decoder_session **")
        check(library().v2e_decoder_session_load(self.handle, path_bytes(path), options, handle))
        return DecoderSession(self, handle[0])

    @property
    def prefix_cache(self) -> PrefixCacheState:
        """KV pages that sessions have left for others."""
        struct = new_struct("v2e_prefix_cache")
        check(library().v2e_decoder_prefix_cache(self.handle, struct))
        return PrefixCacheState(**struct_values(struct, [field.name for field in dataclasses.fields(PrefixCacheState)]))

    def resize_prefix_cache(self, budget_bytes: int) -> None:
        """Sets another budget for KV pages that no session holds; what is beyond it goes at once.

        Raises:
            InputError: it is no number of bytes.
        """
        budget = unsigned("prefix_cache_bytes", budget_bytes, LARGEST_UINT64)
        check(library().v2e_decoder_resize_prefix_cache(self.handle, budget))

    def trim(self) -> None:
        """Gives back what nothing needs until the next call: mapped pages of the weights, and freed memory."""
        with self._lock:
            if self._handle is not None:
                library().v2e_decoder_trim(self._handle)

    def close(self) -> None:
        """Gives the weights back, as soon as the last of its sessions is closed as well."""
        with self._lock:
            self._closed = True
            self._free_if_unused()

    def add_session(self) -> None:
        """A session is open that needs the weights."""
        with self._lock:
            self._sessions += 1

    def remove_session(self) -> None:
        """A session that needed the weights is closed."""
        with self._lock:
            self._sessions -= 1
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self._closed and self._sessions == 0 and self._handle is not None:
            handle, self._handle = self._handle, None
            library().v2e_decoder_close(handle)
            self.backend = self._table = None
