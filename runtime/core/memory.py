"""What a question will cost in memory, planned before anything is loaded (docs/memory.md)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from valley2_edge.bundle import TOKENIZER_FILE, Bundle
from valley2_edge.errors import BudgetError
from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.options import LoadOptions, SessionOptions, picked, size_bytes
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.backend import Backend, BackendTable
from valley2_edge.runtime.core.binding import (
    ACTIVATIONS_NUMBERS,
    DEVICE_NUMBERS,
    KV_PRECISION_NUMBERS,
    new_struct,
    number_of,
    path_bytes,
    struct_array,
    struct_values,
    unsigned,
)
from valley2_edge.runtime.core.context_room import picture_tokens
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.picture_policy import geometry_options
from valley2_edge.runtime.core.pixels import geometry_options_struct
from valley2_edge.runtime.core.process_memory import resident_bytes

Size = tuple[int, int]
"""Width and height, pixels."""

ANY_PICTURE: Size = (3500, 3500)
"""Stands for pictures that nobody has seen yet: a photo of 12 megapixels, which takes all tiles."""

_LIBRARIES_BYTES = 8 << 20
"""Memory of Pillow, with the pages that its first use touches."""
_ONNX_BYTES = 32 << 20
"""The same of ONNX Runtime."""
_TENSORRT_BYTES = 103 << 20
"""Memory of TensorRT-RTX 1.7 once it is imported; what a driver adds to it is not known."""
_KEPT_BYTES = 8 << 20
"""Freed memory that allocators keep whatever they are told."""
_TOKENIZER_FACTOR = 2
"""Memory of a tokenizer by the size of its file: the content while it is read, and the core's tables."""


@dataclass(frozen=True)
class MemorySettings(LoadOptions, SessionOptions):
    """What the memory of a session depends on, beside its pictures: all options, and where the decoder is."""

    device: str = "cpu"
    """Where the decoder is to run: cpu, cuda or auto."""
    gpu_memory: int = 0
    """Most bytes of the GPU's memory to use; 0 is what its driver says is free."""
    offload_weights: bool = False
    """The decoder's weights leave the GPU while pictures are encoded there."""

    @classmethod
    def of(cls, load: LoadOptions, session: SessionOptions | None = None) -> MemorySettings:
        """The settings of a session with these options, before anything is placed on a GPU."""
        resolved = {"device": load.device or "cpu", "gpu_memory": size_bytes(load.gpu_memory)}
        return cls(**(vars(load) | vars(session or SessionOptions()) | resolved))

    @property
    def picture_policy(self) -> Policy:
        """The choices about pictures."""
        return picked(Policy, self)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each part and of each phase; the fields are those of v2e_memory_plan."""

    context_length: int
    picture_tokens: int
    process_bytes: int
    decoder_bytes: int
    embedding_bytes: int
    kv_bytes: int
    scratch_bytes: int
    siglip_bytes: int
    projector_bytes: int
    eagle_bytes: int
    siglip_work_bytes: int
    eagle_work_bytes: int
    picture_bytes: int
    vision_cache_bytes: int
    prefix_cache_bytes: int
    tiles_phase_bytes: int
    eagle_phase_bytes: int
    answer_phase_bytes: int
    peak_bytes: int
    gpu_layers: int
    """Number of the decoder's layers on the GPU; the parts above are then what stays with the CPU."""
    gpu_weight_bytes: int
    gpu_kv_bytes: int
    gpu_scratch_bytes: int
    gpu_context_bytes: int
    gpu_bytes: int
    """Memory of the GPU in its largest phase."""
    gpu_siglip_bytes: int
    gpu_projector_bytes: int
    gpu_eagle_bytes: int
    gpu_siglip_work_bytes: int
    gpu_eagle_work_bytes: int
    gpu_tiles_phase_bytes: int
    gpu_eagle_phase_bytes: int
    gpu_answer_phase_bytes: int
    gpu_memory_bytes: int
    """Memory of the GPU that may be used; 0 without a GPU."""

    @property
    def peak_phase(self) -> str:
        """The phase that takes most: tiles, eagle or answer."""
        phases = {"tiles": self.tiles_phase_bytes, "eagle": self.eagle_phase_bytes, "answer": self.answer_phase_bytes}
        return max(phases, key=lambda name: phases[name])


def plan_memory(
    bundle: Bundle,
    pictures: Sequence[Size],
    settings: MemorySettings,
    *,
    video: bool = False,
    conversation: bool = False,
    process_bytes: int | None = None,
    decoder_backend: Backend | None = None,
    vision_backend: Backend | None = None,
) -> MemoryPlan:
    """Plans a question whose context is used up to its end.

    Args:
        bundle: The bundle; only its manifest and the headers of its files are read.
        pictures: Sizes of the pictures, or of a video's frames.
        settings: The options of the model and the session.
        video: The pictures are frames of a video.
        conversation: The pictures may come when the context is full; otherwise they come with the first question.
        process_bytes: Memory of the program itself; None takes what `expected_process_bytes` finds.
        decoder_backend: What computes the decoder, asked for its cost alone; None: the core's kernels.
        vision_backend: What computes the vision half, likewise; None: the core's own towers.

    Raises:
        InputError: An option is out of range, or a picture is too thin.
        BundleError: A header is damaged.
        BudgetError: The pictures do not fit the context.
    """
    options = memory_options(
        bundle,
        pictures,
        settings,
        video=video,
        conversation=conversation,
        process_bytes=process_bytes,
        decoder_backend=decoder_backend,
        vision_backend=vision_backend,
    )
    plan = new_struct("v2e_memory_plan")
    check(library().v2e_plan_memory(path_bytes(bundle.directory), options, plan))
    return memory_plan(plan)


def memory_plan(struct: Any) -> MemoryPlan:
    """The plan that a v2e_memory_plan holds."""
    return MemoryPlan(**struct_values(struct, [part.name for part in fields(MemoryPlan)]))


def memory_options(
    bundle: Bundle,
    pictures: Sequence[Size],
    settings: MemorySettings,
    *,
    video: bool,
    conversation: bool,
    process_bytes: int | None,
    decoder_backend: Backend | None,
    vision_backend: Backend | None,
) -> Any:
    """The v2e_memory_options of a question; the arguments and what is raised are those of `plan_memory`."""
    check_positions(bundle, Counter(pictures), settings, video=video)
    architecture = bundle.manifest.architecture
    geometry = geometry_options(settings.picture_policy, architecture, len(pictures), video=video)
    structs = {size: new_struct("v2e_geometry", width=size[0], height=size[1]) for size in set(pictures)}
    if process_bytes is None:
        process_bytes = expected_process_bytes(bundle, settings.vision_engine)
    return new_struct(
        "v2e_memory_options",
        context_length=unsigned("context_length", settings.context_length),
        kv_precision=number_of("kv_precision", settings.kv_precision, KV_PRECISION_NUMBERS),
        prefill_chunk=unsigned("prefill_chunk", settings.prefill_chunk),
        threads=unsigned("threads", settings.threads),
        activations=number_of("activations", settings.activations, ACTIVATIONS_NUMBERS),
        keep_vision=int(settings.keep_vision),
        conversation=int(conversation),
        vision_cache_bytes=unsigned("vision_cache_bytes", settings.vision_cache_bytes, LARGEST_UINT64),
        prefix_cache_bytes=unsigned("prefix_cache_bytes", settings.prefix_cache_bytes, LARGEST_UINT64),
        no_prefix_cache=int(settings.prefix_cache_bytes == 0),
        process_bytes=process_bytes,
        pictures=struct_array("v2e_geometry", [structs[size] for size in pictures]),
        picture_count=len(pictures),
        device=number_of("device", settings.device, DEVICE_NUMBERS),
        gpu_layers=unsigned("gpu_layers", settings.gpu_layers),
        gpu_memory=unsigned("gpu_memory", settings.gpu_memory, LARGEST_UINT64),
        offload_weights=int(settings.offload_weights),
        decoder_backend=_struct_of(decoder_backend),
        vision_backend=_struct_of(vision_backend),
        geometry=geometry_options_struct(geometry),
    )


def _struct_of(backend: Backend | None) -> Any:
    return None if backend is None else BackendTable(backend).struct


def check_positions(bundle: Bundle, sizes: Counter[Size], settings: MemorySettings, *, video: bool) -> None:
    """Refuses pictures for which no context is long enough, however many they are.

    Args:
        bundle: The bundle of the model.
        sizes: How many pictures there are of each size.
        settings: The options of the model and the session.
        video: Whether the pictures are frames of a video.

    Raises:
        BudgetError: They need more positions than the model was trained for; the sentence says how many would fit.
        InputError: A picture is too thin.
    """
    architecture = bundle.manifest.architecture
    longest = architecture.decoder.max_position_embeddings
    needed = picture_tokens(sizes, settings.picture_policy, architecture, video=video)
    if needed <= longest:
        return
    context = min(settings.context_length or longest, longest)
    fitting = ""
    if len(sizes) == 1 and sizes.total() > 1:
        (size,) = sizes
        one = picture_tokens(Counter({size: 2}), settings.picture_policy, architecture, video=video) // 2
        fitting = f"; at most {context // one} of them fit"
    raise BudgetError(f"The pictures need {needed} positions, but the context holds {context}{fitting}.")


def expected_process_bytes(bundle: Bundle, vision_engine: str = "auto") -> int:
    """Memory of this process once the libraries and the tokenizer are loaded, before any weight is.

    Args:
        bundle: The bundle whose tokenizer will be loaded.
        vision_engine: The name of what computes the vision half.
    """
    libraries = 0 if "PIL" in sys.modules else _LIBRARIES_BYTES
    if (vision_engine == "onnx" or bundle.manifest.decoder.engine == "onnx") and "onnxruntime" not in sys.modules:
        libraries += _ONNX_BYTES
    if vision_engine == "tensorrt" and not {"tensorrt", "tensorrt_rtx"} & sys.modules.keys():
        libraries += _TENSORRT_BYTES
    tokenizer = _TOKENIZER_FACTOR * bundle.manifest.files[TOKENIZER_FILE].size
    return resident_bytes() + libraries + tokenizer + _KEPT_BYTES
