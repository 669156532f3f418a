"""Numbers that the exporter must share with the native core, read out of the core's sources, or with the run time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from valley2_edge.export.bundle import safetensors_stream
from valley2_edge.export.decoder_onnx import graph
from valley2_edge.export.vision import native_panels, onnx_eagle, onnx_siglip, tower_reader
from valley2_edge.precisions import GROUP_SIZES
from valley2_edge.quantize import packing
from valley2_edge.runtime.core import rounding
from valley2_edge.runtime.onnx import decoder_cost, vision_cost

SOURCES = Path(__file__).parents[2] / "runtime" / "native" / "src"


def _numbers_in_core(pattern: str) -> set[int]:
    """Every number that the pattern's group finds in the core's sources, wherever they lie."""
    files = [*SOURCES.rglob("*.cpp"), *SOURCES.rglob("*.hpp")]
    return {int(number) for file in files for number in re.findall(pattern, file.read_text("utf-8"), re.MULTILINE)}


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        (r"^constexpr size_t PANEL = (\d+)", packing.PANEL),
        (r"^constexpr size_t VISION_PANEL = (\d+)", native_panels.PANEL),
        (r"^constexpr size_t VISION_PANEL = (\d+)", tower_reader.PANEL),
        (r"^constexpr size_t ALIGNMENT = (\d+)", safetensors_stream.ALIGNMENT),
        (r"^inline constexpr size_t ROUNDING_ROWS = (\d+)", rounding.ROW_STEP),
        (r"^inline constexpr size_t ROUNDING_COLUMNS = (\d+)", rounding.MOST_COLUMNS),
        (r"^inline constexpr size_t ROUNDING_INNER = (\d+)", rounding.MOST_VISITED),
    ],
    ids=[
        "decoder panel",
        "vision panel",
        "vision panel that is read",
        "alignment",
        "rows of rounding",
        "columns of rounding",
        "columns that are visited",
    ],
)
def test_the_core_has_the_same_number(pattern: str, number: int) -> None:
    assert _numbers_in_core(pattern) == {number}


def test_cost_of_a_graph_counts_with_its_blocks() -> None:
    assert (vision_cost._SIGLIP_BLOCK, vision_cost._EAGLE_BLOCK) == (onnx_siglip.LARGEST_BLOCK, onnx_eagle.BLOCK)
    assert decoder_cost._HEAD_ROWS == graph.HEAD_ROWS


def test_blocks_of_rounding_fit_every_group_size() -> None:
    assert all(rounding.MOST_COLUMNS % size == 0 for size in GROUP_SIZES)
    assert rounding.MOST_VISITED % rounding.MOST_COLUMNS == 0
