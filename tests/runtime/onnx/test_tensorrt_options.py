"""What the TensorRT provider is told: one folder for each graph, and the shapes that questions have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import Valley2Warning
from valley2_edge.runtime.onnx.tensorrt_options import TENSORRT_PROVIDER, tensorrt_options
from valley2_edge.runtime.vision.encoder import VisionEncoder


@pytest.fixture(autouse=True)
def _data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))


def test_each_graph_has_a_folder_of_its_own(int4_bundle: Path, fp32_bundle: Path, tmp_path: Path) -> None:
    bundles = [open_bundle(path) for path in (int4_bundle, fp32_bundle)]
    folders = {tensorrt_options(one, name)["trt_engine_cache_path"] for one in bundles for name in ("siglip", "eagle")}
    assert len(folders) == 4
    assert all(Path(folder).is_dir() and Path(folder).parent == tmp_path / "data" / "engines" for folder in folders)
    again = tensorrt_options(bundles[0], "siglip")["trt_engine_cache_path"]
    assert again in folders


def test_shapes_cover_what_questions_have(int4_bundle: Path) -> None:
    options = tensorrt_options(open_bundle(int4_bundle), "eagle")
    assert options["trt_profile_min_shapes"] == "patches:4x588,positions:4x2"
    assert options["trt_profile_max_shapes"] == "patches:5120x588,positions:5120x2"
    assert tensorrt_options(open_bundle(int4_bundle), "siglip")["trt_profile_max_shapes"] == "tiles:9x3x384x384"
    assert tensorrt_options(open_bundle(int4_bundle), "projector")["trt_profile_opt_shapes"] == "features:1x729x144"


def test_session_is_asked_for_with_them_and_falls_back_in_one_sentence(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def record(path: str, options: Any, providers: list[Any], **more: Any) -> Any:
        asked.extend(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT_PROVIDER, "CPUExecutionProvider"])
    bundle = open_bundle(int4_bundle)
    encoder = VisionEncoder(bundle, threads=1, providers=[TENSORRT_PROVIDER, "CPUExecutionProvider"])
    with pytest.warns(Valley2Warning, match=f"runs on CPUExecutionProvider: {TENSORRT_PROVIDER} could not be used"):
        encoder.project(np.zeros((1, 729, 144), np.float32))
    assert asked == [(TENSORRT_PROVIDER, tensorrt_options(bundle, "projector")), ("CPUExecutionProvider", {})]
