"""Numbers that the exporter and the native core must agree about, read out of the core's sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from valley2_edge.export.bundle import safetensors_stream
from valley2_edge.export.decoder_onnx import graph
from valley2_edge.export.vision import native_panels, onnx_eagle, onnx_siglip
from valley2_edge.quantize import descent, gptq, packing
from valley2_edge.quantize.matrix_format import GROUP_SIZES

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
        (r"^constexpr size_t ALIGNMENT = (\d+)", safetensors_stream.ALIGNMENT),
        (r"^constexpr uint64_t SIGLIP_BLOCK = (\d+)", onnx_siglip.LARGEST_BLOCK),
        (r"^constexpr uint64_t EAGLE_BLOCK = (\d+)", onnx_eagle.BLOCK),
        (r"\bmin<Saturating>\(vocabulary, (\d+)\)", graph.HEAD_ROWS),
    ],
    ids=["decoder panel", "vision panel", "alignment", "SigLIP block", "Eagle block", "ONNX head rows"],
)
def test_the_core_has_the_same_number(pattern: str, number: int) -> None:
    assert _numbers_in_core(pattern) == {number}


def test_blocks_of_the_solvers_fit_every_group_size() -> None:
    assert all(size % gptq._STRIP == 0 and size % descent._STRIP == 0 for size in GROUP_SIZES)
    assert all(descent._BLOCK % size == 0 for size in GROUP_SIZES)
