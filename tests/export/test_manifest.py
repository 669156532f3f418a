"""The manifest that is made from what the finished components say about themselves."""

from __future__ import annotations

from typing import Any

import pytest

from valley2_edge.bundle import FileEntry, Source
from valley2_edge.config import ModelConfig
from valley2_edge.export.manifest import make_manifest
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.plan import make_plan

SOURCE = Source(checkpoint="tiny", revision=None, tool_version="0", created="now")
FILES = {"decoder/decoder.safetensors": FileEntry(size=1, sha256="0" * 64)}
VISION: dict[str, dict[str, Any]] = {
    name: {"precision": "bf16", "files": [f"vision/{name}.safetensors"], "relative_error": 1e-3}
    for name in ("siglip", "projector", "eagle")
}
DECODER: dict[str, Any] = {
    "matrices": [
        {"name": "layers.0.mlp.down", "precision": "int4", "relative_error": 0.25},
        {"name": "lm_head", "precision": "int8", "relative_error": 0.75},
    ],
    "layers": ["int4", 64, True, "uniform"],
    "rounding": {},
}


def test_the_rotation_is_noted_where_there_is_one() -> None:
    for precision, rotation in (("int4", {"kind": "hadamard", "seed": 0}), ("fp16", None)):
        plan = make_plan(ExportOptions(precision=precision))  # type: ignore[arg-type]
        manifest = make_manifest(ModelConfig(), plan, SOURCE, VISION, FILES).model_dump(mode="json")
        assert manifest["decoder"]["rotation"] == rotation


def test_before_the_decoder_is_finished_it_has_the_planned_format() -> None:
    manifest = make_manifest(ModelConfig(), make_plan(ExportOptions()), SOURCE, VISION, FILES)
    assert (manifest.decoder.precision, manifest.decoder.group_size, manifest.decoder.matrices) == ("int4", 64, [])
    assert manifest.files == FILES
    assert manifest.quality == {}


def test_a_model_without_eagle_has_no_entry_for_it() -> None:
    facts = {name: VISION[name] for name in ("siglip", "projector")}
    assert make_manifest(ModelConfig(), make_plan(ExportOptions()), SOURCE, facts, {}).eagle is None


def test_the_finished_decoder_says_its_own_format_and_errors() -> None:
    facts = {**VISION, "decoder": DECODER}
    manifest = make_manifest(ModelConfig(), make_plan(ExportOptions()), SOURCE, facts, FILES)
    assert (manifest.decoder.group_size, manifest.decoder.engine) == (64, "native")
    assert manifest.decoder.files == ["decoder/decoder.safetensors", "decoder/embeddings.safetensors"]
    assert manifest.quality == {
        "decoder_mean_relative_error": 0.5,
        "decoder_worst_matrix": "lm_head",
        "decoder_worst_relative_error": 0.75,
    }


def test_an_onnx_decoder_names_its_own_files() -> None:
    facts = {**VISION, "decoder": DECODER, "onnx decoder": {"files": ["decoder/decoder.onnx.data"]}}
    manifest = make_manifest(ModelConfig(), make_plan(ExportOptions(decoder_engine="onnx")), SOURCE, facts, {})
    assert (manifest.decoder.engine, manifest.decoder.files) == ("onnx", ["decoder/decoder.onnx.data"])


def test_graphs_are_named_where_there_are_any() -> None:
    plan, files = make_plan(ExportOptions()), {"siglip": ["vision/siglip.onnx", "vision/siglip.onnx.data"]}
    assert make_manifest(ModelConfig(), plan, SOURCE, VISION, {}).graphs is None
    assert make_manifest(ModelConfig(), plan, SOURCE, {**VISION, "graphs": {"files": files}}, {}).graphs == files


def test_measured_quality_stands_beside_the_errors() -> None:
    facts = {**VISION, "decoder": DECODER, "selftest": {"siglip_features": 1e-3}, "report": {"mean_kl": {"value": 0.1}}}
    quality = make_manifest(ModelConfig(), make_plan(ExportOptions()), SOURCE, facts, {}).quality
    assert quality["selftest_vision_relative_error"] == {"siglip_features": 1e-3}
    assert quality["mean_kl"]["value"] == pytest.approx(0.1)
