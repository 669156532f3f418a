"""The native core as ctypes sees it: every declaration of include/valley2.h, and its statuses as exceptions."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path

import valley2_edge.runtime
from valley2_edge.errors import (
    BudgetError,
    BundleError,
    Cancelled,
    InputError,
    NumericError,
    Valley2Error,
)

LIBRARY_VARIABLE = "VALLEY2_LIBRARY"
"""Environment variable with the path of another build of the native library."""

EVENT_PREFILL = 1
EVENT_TOKEN = 2

ISA_NUMBERS = {"auto": 0, "portable": 1, "avx2": 2, "avx512-vnni": 3, "neon": 4, "avx-vnni": 5}
ACTIVATIONS_NUMBERS = {"auto": 0, "int8": 0, "int16": 1}
KV_PRECISION_NUMBERS = {"auto": 0, "fp32": 2, "fp16": 1, "int8": 3}
REUSE_NUMBERS = {"auto": 0, "off": 1}
DEVICE_NUMBERS = {"auto": 1, "cpu": 0, "cuda": 2}
SPECULATION_NUMBERS = {"auto": 0, "off": 1, "always": 2}

_STATUS_ERRORS: dict[int, type[Valley2Error]] = {
    1: InputError,
    2: BundleError,
    3: BudgetError,
    4: Cancelled,
    5: NumericError,
    6: Valley2Error,
}


class SizedStructure(Structure):
    """A struct of the header whose first field is its own size; the constructor fills it in."""

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.struct_size = ctypes.sizeof(self)


class EventStruct(Structure):
    """v2e_event; filled by the library."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int),
        ("done", c_uint64),
        ("total", c_uint64),
        ("token", c_int32),
        ("elapsed_ms", c_double),
    ]


EventCallback = CFUNCTYPE(c_int, POINTER(EventStruct), c_void_p)
"""v2e_event_callback. The Python object must stay referenced for as long as the library may call it."""


class GeometryOptionsStruct(SizedStructure):
    """v2e_geometry_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("tile_size", c_uint32),
        ("tokens_per_side", c_uint32),
        ("tiled", c_uint32),
        ("unpad", c_uint32),
        ("max_vision_token", c_uint32),
        ("eagle", c_uint32),
        ("eagle_min_pixels", c_uint64),
        ("eagle_max_pixels", c_uint64),
        ("canvases", POINTER(c_uint32)),
        ("canvas_count", c_size_t),
        ("callback", EventCallback),
        ("user_data", c_void_p),
    ]


GEOMETRY_FIELDS = (
    "width",
    "height",
    "grid_columns",
    "grid_rows",
    "resized_width",
    "resized_height",
    "paste_x",
    "paste_y",
    "tile_count",
    "kept_x",
    "kept_y",
    "kept_columns",
    "kept_rows",
    "pooled_columns",
    "pooled_rows",
    "siglip_tokens",
    "fetch_width",
    "fetch_height",
    "eagle_width",
    "eagle_height",
    "eagle_patches",
    "eagle_tokens",
)
"""The uint32 fields of v2e_geometry after struct_size, in order."""


class GeometryStruct(SizedStructure):
    """v2e_geometry."""

    _fields_ = [("struct_size", c_size_t), *((name, c_uint32) for name in GEOMETRY_FIELDS)]


class FileStampStruct(SizedStructure):
    """v2e_file_stamp."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("size", c_uint64),
        ("mtime_ns", c_int64),
        ("ctime_ns", c_int64),
        ("inode", c_uint64),
        ("device", c_uint64),
    ]


class ModelOptionsStruct(SizedStructure):
    """v2e_model_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("threads", c_uint32),
        ("isa", c_uint32),
        ("activations", c_uint32),
        ("prefix_cache_bytes", c_uint64),
        ("device", c_uint32),
        ("gpu_layers", c_uint32),
        ("gpu_context", c_uint32),
        ("gpu_memory", c_uint64),
        ("gpu_yields", c_uint32),
        ("decoder_stamp", POINTER(FileStampStruct)),
        ("embeddings_stamp", POINTER(FileStampStruct)),
    ]


class ModelDescriptionStruct(SizedStructure):
    """v2e_model_description."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("hidden_size", c_uint32),
        ("intermediate_size", c_uint32),
        ("layers", c_uint32),
        ("heads", c_uint32),
        ("kv_heads", c_uint32),
        ("head_size", c_uint32),
        ("vocabulary_size", c_uint32),
        ("max_context", c_uint32),
        ("threads", c_uint32),
        ("isa", c_uint32),
        ("weight_bytes", c_uint64),
        ("mapped_bytes", c_uint64),
        ("device", c_uint32),
        ("gpu_layers", c_uint32),
        ("gpu_bytes", c_uint64),
        ("device_name", c_char * 64),
        ("device_reason", c_char * 256),
    ]


class SessionOptionsStruct(SizedStructure):
    """v2e_session_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("context_length", c_uint32),
        ("kv_precision", c_uint32),
        ("prefill_chunk", c_uint32),
        ("reuse", c_uint32),
    ]


class PrefixCacheStruct(SizedStructure):
    """v2e_prefix_cache."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("budget_bytes", c_uint64),
        ("kept_bytes", c_uint64),
        ("pages", c_uint64),
    ]


class SegmentStruct(Structure):
    """v2e_segment."""

    _fields_ = [("tokens", POINTER(c_int32)), ("embeddings", POINTER(c_float)), ("count", c_size_t)]


class GenerateOptionsStruct(SizedStructure):
    """v2e_generate_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("max_new_tokens", c_uint32),
        ("temperature", c_float),
        ("top_k", c_uint32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("seed", c_uint64),
        ("stop_tokens", POINTER(c_int32)),
        ("stop_token_count", c_size_t),
        ("speculation", c_uint32),
        ("tokens_to_follow", c_uint32),
    ]


COUNTER_FIELDS = (
    "tokens",
    "steps",
    "drafted_tokens",
    "accepted_tokens",
    "prefilled_positions",
    "reused_positions",
)
"""The uint64 fields of v2e_session_counters after struct_size, in order."""


class SessionCountersStruct(SizedStructure):
    """v2e_session_counters."""

    _fields_ = [("struct_size", c_size_t), *((name, c_uint64) for name in COUNTER_FIELDS)]


class MemoryOptionsStruct(SizedStructure):
    """v2e_memory_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("context_length", c_uint32),
        ("kv_precision", c_uint32),
        ("prefill_chunk", c_uint32),
        ("threads", c_uint32),
        ("activations", c_uint32),
        ("together", c_uint32),
        ("conversation", c_uint32),
        ("process_bytes", c_uint64),
        ("pictures", POINTER(GeometryStruct)),
        ("picture_count", c_size_t),
        ("vision_cache_bytes", c_uint64),
        ("prefix_cache_bytes", c_uint64),
        ("device", c_uint32),
        ("gpu_layers", c_uint32),
        ("gpu_memory", c_uint64),
        ("vision_device", c_uint32),
        ("gpu_yields", c_uint32),
    ]


class MemoryPlanStruct(SizedStructure):
    """v2e_memory_plan."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("context_length", c_uint32),
        ("picture_tokens", c_uint32),
        ("process_bytes", c_uint64),
        ("decoder_bytes", c_uint64),
        ("embedding_bytes", c_uint64),
        ("kv_bytes", c_uint64),
        ("scratch_bytes", c_uint64),
        ("siglip_bytes", c_uint64),
        ("projector_bytes", c_uint64),
        ("eagle_bytes", c_uint64),
        ("siglip_work_bytes", c_uint64),
        ("eagle_work_bytes", c_uint64),
        ("picture_bytes", c_uint64),
        ("tiles_phase_bytes", c_uint64),
        ("eagle_phase_bytes", c_uint64),
        ("answer_phase_bytes", c_uint64),
        ("peak_bytes", c_uint64),
        ("vision_cache_bytes", c_uint64),
        ("prefix_cache_bytes", c_uint64),
        ("gpu_layers", c_uint32),
        ("gpu_weight_bytes", c_uint64),
        ("gpu_kv_bytes", c_uint64),
        ("gpu_scratch_bytes", c_uint64),
        ("gpu_context_bytes", c_uint64),
        ("gpu_bytes", c_uint64),
        ("gpu_siglip_bytes", c_uint64),
        ("gpu_projector_bytes", c_uint64),
        ("gpu_eagle_bytes", c_uint64),
        ("gpu_siglip_work_bytes", c_uint64),
        ("gpu_eagle_work_bytes", c_uint64),
        ("gpu_tiles_phase_bytes", c_uint64),
        ("gpu_eagle_phase_bytes", c_uint64),
        ("gpu_answer_phase_bytes", c_uint64),
        ("gpu_memory_bytes", c_uint64),
    ]


class ProbeOptionsStruct(SizedStructure):
    """v2e_probe_options."""

    _fields_ = [("struct_size", c_size_t), ("threads", c_uint32), ("isa", c_uint32), ("device", c_uint32)]


class TowerOptionsStruct(SizedStructure):
    """v2e_tower_options."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("threads", c_uint32),
        ("isa", c_uint32),
        ("dropped_mass", c_float),
        ("stamp", POINTER(FileStampStruct)),
    ]


class TowerDescriptionStruct(SizedStructure):
    """v2e_tower_description."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_uint32),
        ("threads", c_uint32),
        ("isa", c_uint32),
        ("bf16_arithmetic", c_uint32),
        ("input_floats", c_uint64),
        ("mapped_bytes", c_uint64),
    ]


class TowerCostStruct(SizedStructure):
    """v2e_tower_cost."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("output_floats", c_uint64),
        ("scratch_bytes", c_uint64),
        ("operations", c_double),
    ]


class TowerVocabularyStruct(SizedStructure):
    """v2e_tower_vocabulary."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("dropped_mass", c_double),
        ("tokens", c_uint64),
        ("entries", c_uint64),
        ("multiplied", c_uint64),
    ]


class TowerInputStruct(SizedStructure):
    """v2e_tower_input."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("values", POINTER(c_float)),
        ("count", c_size_t),
        ("positions", POINTER(c_int64)),
    ]


_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "v2e_last_error": (c_char_p, ()),
    "v2e_version": (c_char_p, ()),
    "v2e_plan_picture": (c_int, (c_uint32, c_uint32, POINTER(GeometryOptionsStruct), POINTER(GeometryStruct))),
    "v2e_resize": (c_int, (POINTER(c_uint8), c_uint32, c_uint32, POINTER(c_uint8), c_uint32, c_uint32)),
    "v2e_make_tiles": (
        c_int,
        (POINTER(c_uint8), POINTER(GeometryStruct), POINTER(GeometryOptionsStruct), POINTER(c_float)),
    ),
    "v2e_make_patches": (
        c_int,
        (
            POINTER(c_uint8),
            POINTER(GeometryStruct),
            POINTER(GeometryOptionsStruct),
            POINTER(c_float),
            POINTER(c_int64),
        ),
    ),
    "v2e_stitch_tiles": (
        c_int,
        (POINTER(c_float), POINTER(GeometryStruct), POINTER(GeometryOptionsStruct), c_uint32, POINTER(c_float)),
    ),
    "v2e_model_open": (c_int, (c_char_p, POINTER(ModelOptionsStruct), POINTER(c_void_p))),
    "v2e_model_describe": (c_int, (c_void_p, POINTER(ModelDescriptionStruct))),
    "v2e_model_embed": (c_int, (c_void_p, POINTER(c_int32), c_size_t, POINTER(c_float))),
    "v2e_model_close": (None, (c_void_p,)),
    "v2e_model_trim": (None, (c_void_p,)),
    "v2e_model_prefix_cache": (c_int, (c_void_p, POINTER(PrefixCacheStruct))),
    "v2e_model_resize_prefix_cache": (c_int, (c_void_p, c_uint64)),
    "v2e_plan_memory": (c_int, (c_char_p, POINTER(MemoryOptionsStruct), POINTER(MemoryPlanStruct))),
    "v2e_isa_name": (c_char_p, (c_uint32,)),
    "v2e_isa_available": (c_int, (c_uint32,)),
    "v2e_session_open": (c_int, (c_void_p, POINTER(SessionOptionsStruct), POINTER(c_void_p))),
    "v2e_session_close": (None, (c_void_p,)),
    "v2e_session_save": (c_int, (c_void_p, c_char_p, c_char_p)),
    "v2e_session_load": (c_int, (c_void_p, c_char_p, POINTER(SessionOptionsStruct), POINTER(c_void_p))),
    "v2e_session_note": (c_char_p, (c_void_p,)),
    "v2e_session_prefill": (c_int, (c_void_p, POINTER(SegmentStruct), c_size_t, c_size_t, EventCallback, c_void_p)),
    "v2e_session_logits": (c_int, (c_void_p, c_size_t, POINTER(c_float))),
    "v2e_session_generate": (
        c_int,
        (c_void_p, POINTER(GenerateOptionsStruct), EventCallback, c_void_p, POINTER(c_int)),
    ),
    "v2e_choose_token": (
        c_int,
        (
            POINTER(c_float),
            c_size_t,
            POINTER(c_int32),
            c_size_t,
            POINTER(GenerateOptionsStruct),
            POINTER(c_int32),
        ),
    ),
    "v2e_session_length": (c_size_t, (c_void_p,)),
    "v2e_session_kv_bytes": (c_uint64, (c_void_p,)),
    "v2e_session_count": (c_int, (c_void_p, POINTER(SessionCountersStruct))),
    "v2e_session_truncate": (c_int, (c_void_p, c_size_t)),
    "v2e_session_cancel": (None, (c_void_p,)),
    "v2e_session_resume": (None, (c_void_p,)),
    "v2e_tower_open": (c_int, (c_char_p, POINTER(TowerOptionsStruct), POINTER(c_void_p))),
    "v2e_tower_describe": (c_int, (c_void_p, POINTER(TowerDescriptionStruct))),
    "v2e_tower_plan": (c_int, (c_void_p, c_size_t, POINTER(TowerCostStruct))),
    "v2e_tower_run": (c_int, (c_void_p, POINTER(TowerInputStruct), POINTER(c_float), EventCallback, c_void_p)),
    "v2e_tower_vocabulary_of": (c_int, (c_void_p, POINTER(TowerVocabularyStruct))),
    "v2e_tower_cancel": (None, (c_void_p,)),
    "v2e_tower_resume": (None, (c_void_p,)),
    "v2e_tower_close": (None, (c_void_p,)),
    "v2e_probe_open": (c_int, (POINTER(ProbeOptionsStruct), POINTER(c_void_p))),
    "v2e_probe_bandwidth": (c_int, (c_void_p, POINTER(c_double))),
    "v2e_probe_int8": (c_int, (c_void_p, POINTER(c_double))),
    "v2e_probe_fp32": (c_int, (c_void_p, POINTER(c_double))),
    "v2e_probe_fp16": (c_int, (c_void_p, POINTER(c_double))),
    "v2e_probe_close": (None, (c_void_p,)),
}


def library_path() -> Path:
    """Where the native library is looked for: $VALLEY2_LIBRARY, or else in the folders of this package."""
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        return Path(given)
    name = {"win32": "valley2.dll", "darwin": "libvalley2.dylib"}.get(sys.platform, "libvalley2.so")
    # An editable install has two folders: the checkout's with the Python files and the installed one with the library.
    candidates = [Path(folder) / name for folder in valley2_edge.runtime.__path__]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


@functools.cache
def library() -> ctypes.CDLL:
    """Opens the native library once, with the prototypes of the whole header.

    Raises:
        Valley2Error: the library is not there or cannot be loaded.
    """
    path = library_path()
    if not path.is_file():
        raise Valley2Error(
            f"The native library {path} is missing; reinstall valley2-edge, or set {LIBRARY_VARIABLE} to a build of it."
        )
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise Valley2Error(f"The native library {path} cannot be loaded: {error}.") from error
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise Valley2Error(f"The native library {path} lacks {name}; it belongs to another release.") from error
        function.restype = result
        function.argtypes = arguments
    return loaded


def check(status: int) -> None:
    """Raises the exception of a v2e_status other than V2E_OK, with the library's own sentence.

    Raises:
        Valley2Error: or the child of it that the status stands for.
    """
    if status == 0:
        return
    text = library().v2e_last_error().decode("utf-8", errors="replace")
    raise _STATUS_ERRORS.get(status, Valley2Error)(text)


def isa_available(name: str) -> bool:
    """Whether this machine can run the kernels of an instruction set named as in `ISA_NUMBERS`."""
    return bool(library().v2e_isa_available(ISA_NUMBERS[name]))


def version() -> str:
    """The native library's version, "major.minor.patch"."""
    text: bytes = library().v2e_version()
    return text.decode()
