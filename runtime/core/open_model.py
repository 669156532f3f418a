"""A bundle that the core has opened, which conversations share, and its parts for tools that need them one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from valley2_edge.errors import Valley2Error
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.backend import BackendTable
from valley2_edge.runtime.core.binding import (
    ACTIVATIONS_NUMBERS,
    DEVICE_NUMBERS,
    ISA_NUMBERS,
    EventBridge,
    new_struct,
    path_bytes,
)
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.memory import MemorySettings
from valley2_edge.runtime.core.native_object import NativeObject


class OpenModel(NativeObject):
    """A v2e_model. What is opened of it keeps it, and with it the backends that compute for it.

    Args:
        directory: The bundle, whose files were checked.
        settings: Where and with what the model computes.
        vision_backend: What computes the vision half; None: the core.
        decoder_backend: What computes the decoder; None: the core.
        kept: What the backends need beside that as long as they compute.
        on_load: Told how many parts are loaded, and of how many.

    Raises:
        BundleError: A file is damaged or not understood.
        InputError: An option means nothing, or the machine lacks what it names.
        BudgetError: The GPU has too little memory.
    """

    def __init__(
        self,
        directory: Path,
        settings: MemorySettings,
        *,
        vision_backend: BackendTable | None = None,
        decoder_backend: BackendTable | None = None,
        kept: object = None,
        on_load: Callable[[int, int], None],
    ) -> None:
        self._backends = (vision_backend, decoder_backend, kept)
        core = library()
        # The others' progress is of files that were checked before.
        bridge = EventBridge(
            lambda event: on_load(int(event.done), int(event.total)) if event.kind == core.V2E_EVENT_LOAD else None
        )
        in_core = decoder_backend is None
        struct = new_struct(
            "v2e_model_options",
            threads=settings.threads,
            isa=ISA_NUMBERS[settings.isa],
            activations=ACTIVATIONS_NUMBERS[settings.activations] if in_core else 0,
            device=DEVICE_NUMBERS[settings.device] if in_core else DEVICE_NUMBERS["cpu"],
            gpu_layers=settings.gpu_layers if in_core else 0,
            gpu_memory=settings.gpu_memory if in_core else 0,
            keep_vision=int(settings.keep_vision),
            no_vision_cache=int(settings.vision_cache_bytes == 0),
            vision_cache_bytes=settings.vision_cache_bytes,
            no_prefix_cache=int(settings.prefix_cache_bytes == 0),
            prefix_cache_bytes=settings.prefix_cache_bytes,
            check=core.V2E_CHECK_SIZES,
            vision_backend=None if vision_backend is None else vision_backend.struct,
            decoder_backend=None if decoder_backend is None else decoder_backend.struct,
            callback=bridge.function,
        )
        handle = ffi.new("v2e_model **")
        bridge.finish(core.v2e_model_open(path_bytes(directory), struct, handle))
        self._handle = handle[0]

    @property
    def handle(self) -> Any:
        """The v2e_model.

        Raises:
            Valley2Error: The model is closed.
        """
        if self._handle is None:
            raise Valley2Error("The model is closed.")
        return self._handle

    def part(self, kind: str) -> Any:
        """The model's own v2e_tokenizer, v2e_decoder or v2e_vision, which is to be closed like others.

        Args:
            kind: tokenizer, decoder or vision.
        """
        handle = ffi.new(f"v2e_{kind} **")
        check(getattr(library(), f"v2e_model_{kind}")(self.handle, handle))
        return handle[0]

    def close(self) -> None:
        """Gives the model up; what was opened of it keeps it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            library().v2e_model_close(handle)
