"""The binding is made from the header; what Python says twice has the header's fields, and what C points to lives."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from valley2_edge.errors import Cancelled
from valley2_edge.geometry import Geometry, GeometryOptions
from valley2_edge.runtime.core import binding
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import EventBridge, array_pointer, new_struct, struct_array
from valley2_edge.runtime.core.decoder_description import DecoderDescription, PrefixCacheState
from valley2_edge.runtime.core.generation import GenerateOptions, GenerationCounters, StopReason
from valley2_edge.runtime.core.library import library
from valley2_edge.runtime.core.memory import MemoryPlan
from valley2_edge.runtime.core.rounding import NOT_FINITE, SCALE_TOO_LARGE, ColumnBlock, GridFormat, VisitBlock
from valley2_edge.runtime.core.tower import TowerCost, TowerDescription, VocabularyUse

SAME: dict[str, Any] = {
    "v2e_geometry": Geometry,
    "v2e_decoder_description": DecoderDescription,
    "v2e_prefix_cache": PrefixCacheState,
    "v2e_decoder_session_counters": GenerationCounters,
    "v2e_memory_plan": MemoryPlan,
    "v2e_tower_description": TowerDescription,
    "v2e_tower_cost": TowerCost,
    "v2e_tower_vocabulary": VocabularyUse,
}


def header_fields(kind: str) -> set[str]:
    return {name for name, _ in ffi.typeof(kind).fields} - {"struct_size"}


@pytest.mark.parametrize("kind", SAME)
def test_results_have_the_fields_of_the_header(kind: str) -> None:
    assert {field.name for field in fields(SAME[kind])} == header_fields(kind)


def test_options_have_the_fields_of_the_header() -> None:
    generate = {field.name for field in fields(GenerateOptions)}
    assert generate | {"stop_token_count"} == header_fields("v2e_generate_options")
    of_answers = {"NONE", "TEXT", "CANCELLED", "LEFT"}  # a call that generates tokens ends in no such way
    assert StopReason.__members__.keys() | of_answers == {
        name.removeprefix("V2E_STOP_") for name in ffi.typeof("v2e_stop_reason").relements
    }
    negated = {"tiled": "no_tiles", "unpad": "no_unpad", "eagle": "no_eagle"}  # zero is the default in the header
    geometry = {negated.get(field.name, field.name) for field in fields(GeometryOptions)}
    assert geometry | {"canvas_count", "callback", "user_data"} == header_fields("v2e_geometry_options")


def test_blocks_of_rounding_have_the_fields_of_the_header() -> None:
    assert {field.name for field in fields(GridFormat)} == header_fields("v2e_grid")
    sizes = {"rows", "count", "all_columns"}

    def arrays(kind: str) -> set[str]:
        return {name for name in header_fields(kind) - sizes if not name.endswith("_stride")}

    # Whether scales are fitted is said by the costs that they are fitted with.
    assert {field.name for field in fields(ColumnBlock)} | {"fits_groups"} == arrays("v2e_column_block")
    words = {"fit_scales": "fits_scales", "update_slopes": "updates_slopes"}
    assert {words.get(field.name, field.name) for field in fields(VisitBlock)} == arrays("v2e_visit_block")
    faults = ffi.typeof("v2e_rounding_fault").relements
    assert faults == {"V2E_ROUNDING_NOT_FINITE": NOT_FINITE, "V2E_ROUNDING_SCALE_TOO_LARGE": SCALE_TOO_LARGE}


@pytest.mark.parametrize(
    "enum", ["isa", "activations", "kv_precision", "reuse", "device", "speculation"], ids=lambda name: str(name)
)
def test_auto_is_zero_in_every_enum_of_options(enum: str) -> None:
    numbers: dict[str, int] = getattr(binding, f"{enum.upper()}_NUMBERS")
    assert numbers["auto"] == 0 and sorted(numbers.values()) == list(range(len(numbers)))


def test_what_a_struct_points_to_lives_as_long_as_the_struct() -> None:
    def made() -> Any:
        numbers = np.arange(1000, dtype=np.int32)
        return new_struct("v2e_segment", tokens=array_pointer(numbers), count=len(numbers))

    structs = [made() for _ in range(50)]
    array = struct_array("v2e_segment", structs)
    del structs
    gc.collect()
    churn = [np.full(1000, -1, np.int32) for _ in range(200)]
    assert all(list(ffi.unpack(array[index].tokens, 1000)) == list(range(1000)) for index in range(50)), len(churn)


def test_numbers_that_do_not_fit_are_refused_and_not_cut_off() -> None:
    with pytest.raises(OverflowError):
        new_struct("v2e_decoder_session_options", context_length=2**32)
    with pytest.raises(OverflowError):
        new_struct("v2e_decoder_session_options", context_length=-1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_what_a_callback_raises_comes_out_of_the_call(error: type[BaseException], capfd: Any) -> None:
    def receive(_event: Any) -> None:
        raise error("here")

    bridge = EventBridge(receive)
    assert bridge.function(new_struct("v2e_event"), ffi.NULL) == 1
    with pytest.raises(error, match="here"):
        bridge.finish(library().V2E_ERROR_CANCELLED)
    with pytest.raises(Cancelled):
        bridge.finish(library().V2E_ERROR_CANCELLED)
    assert capfd.readouterr().err == ""


def test_binding_needs_no_parser_when_it_is_imported() -> None:
    code = "import sys, valley2_edge.runtime.core._header; print(*{'cffi', 'pycparser', 'numpy'} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
