"""The vision half in ONNX Runtime and in registered backends, and who goes on where one of them fails."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from vision_backends import FakeBackend

from valley2_edge import Valley2, register_backend
from valley2_edge.backends import registered_backends
from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import Cancelled, EngineError, InputError, NumericError, OptionError, Valley2Warning
from valley2_edge.options import LoadOptions
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.backend import BackendCost
from valley2_edge.runtime.core.memory import MemorySettings
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.memory_budget import MemoryBudget
from valley2_edge.runtime.planning import plan_bundle
from valley2_edge.runtime.vision.encoder import VisionEncoder

PIXELS = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(graph_bundle: Path) -> Bundle:
    return open_bundle(graph_bundle)


def pictures(bundle: Bundle, policy: Policy | None = None, pixels: np.ndarray = PIXELS) -> list[PreparedPicture]:
    return prepare_pictures([pixels], bundle.manifest.architecture, policy or Policy())


def encode(bundle: Bundle, engine: str, **options: Any) -> np.ndarray:
    encoder = VisionEncoder(bundle, threads=1, engine=engine, **options)
    return encoder.encode(pictures(bundle), CancelToken()).tokens[0]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_onnx_runtime_computes_what_the_towers_compute(bundle: Bundle) -> None:
    encoder = VisionEncoder(bundle, threads=2, engine="onnx", providers=["CPUExecutionProvider"])
    encoded = encoder.encode(pictures(bundle), CancelToken())
    assert difference(encoded.tokens[0], encode(bundle, "native")) < 1e-2
    assert encoder.providers == {name: ["CPUExecutionProvider"] for name in ("siglip", "projector", "eagle")}
    assert encoded.vocabulary is None and encoder.engine == "ONNX Runtime"


def test_default_providers_are_local(bundle: Bundle) -> None:
    encoder = VisionEncoder(bundle, threads=1, engine="onnx")
    encoder.siglip(np.zeros((1, 3, 384, 384), np.float32))
    assert encoder.providers["siglip"][-1] == "CPUExecutionProvider"
    assert "AzureExecutionProvider" not in encoder.providers["siglip"]


def test_unknown_provider_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="NoSuchProvider"):
        encode(bundle, "onnx", providers=["NoSuchProvider"])


def test_another_provider_than_the_preferred_one_is_said_aloud(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = ["ROCMExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    encoder = VisionEncoder(bundle, threads=1, engine="onnx")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder.project(np.zeros((1, 729, 144), np.float32))
    said = [str(warning.message) for warning in caught if warning.category is Valley2Warning]
    assert said == ["The projector engine runs on CPUExecutionProvider: ROCMExecutionProvider could not be used."]
    assert encoder.providers["projector"] == ["CPUExecutionProvider"]


def test_cancel_inside_a_graph(bundle: Bundle) -> None:
    encoder, token = VisionEncoder(bundle, threads=1, engine="onnx", keep=True), CancelToken()
    large = np.random.default_rng(3).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    timers: list[threading.Timer] = []

    def progress(name: str, done: int, total: int) -> None:
        if name == "eagle" and done == 0:
            timers.append(threading.Timer(0.3, token.cancel))
            timers[0].start()

    with pytest.raises(Cancelled):
        encoder.encode(pictures(bundle, Policy(eagle_preset="full"), large), token, progress)
    token.clear()
    assert len(encoder.encode(pictures(bundle), token).tokens) == 1
    encoder.release()


def test_what_onnx_runtime_lacks_is_said_with_the_way_to_get_it(
    bundle: Bundle, int4_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path))
    plain = open_bundle(int4_bundle)
    for engine in ("onnx", "tensorrt"):
        with pytest.raises(
            InputError, match=f"siglip, projector, eagle: run `valley2-edge engines onnx {int4_bundle}`"
        ):
            VisionEncoder(plain, threads=1, engine=engine)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "valley2_edge.runtime.vision.engine_choice.find_spec",
        lambda name: None if name == "onnxruntime" else real(name),
    )
    with pytest.raises(InputError, match=r"pip install 'valley2-edge\[onnx\]'"):
        VisionEncoder(bundle, threads=1, engine="onnx")


def test_engine_that_nobody_knows_is_refused(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="auto, native, onnx, tensorrt"):
        VisionEncoder(bundle, threads=1, engine="fast")
    with pytest.raises(InputError, match="fast"):
        LoadOptions(vision_engine="fast")
    for name in ("", "native", "auto"):
        with pytest.raises(InputError, match="cannot be registered"):
            register_backend(name, lambda bundle, options: FakeBackend())
    assert registered_backends() == ()


def test_providers_that_nothing_would_use_are_refused(bundle: Bundle, onnx_bundle: Path) -> None:
    with pytest.raises(InputError, match="choose the vision_engine onnx"):
        VisionEncoder(bundle, threads=1, providers=["CPUExecutionProvider"])
    VisionEncoder(open_bundle(onnx_bundle), threads=1, providers=["CPUExecutionProvider"])  # its decoder does


def test_registered_backend_sees_every_tile_and_patch(bundle: Bundle, fake: FakeBackend) -> None:
    prepared = pictures(bundle)
    encoder = VisionEncoder(bundle, threads=1, engine="fake")
    tokens = encoder.encode(prepared, CancelToken()).tokens[0]
    assert tokens.shape == (prepared[0].tokens, bundle.manifest.architecture.decoder.hidden_size)
    assert np.unique(tokens).tolist() == [0.25]
    siglip = bundle.manifest.architecture.siglip
    assert fake.runs[0] == ("siglip", (1, 3 * siglip.image_size**2))
    assert fake.runs[1] == ("projector", (1, siglip.patches_per_side**2 * siglip.hidden_size))
    assert fake.runs[-1] == ("eagle", (prepared[0].geometry.eagle_patches, 588))
    counts = [[component for component, _ in fake.runs].count(name) for name in ("siglip", "projector", "eagle")]
    assert counts == [prepared[0].geometry.tile_count, prepared[0].geometry.tile_count, 1]
    assert encoder.providers["eagle"] == ["fake"] and fake.open_components == []


def test_what_a_backend_raises_reaches_the_caller(bundle: Bundle, fake: FakeBackend) -> None:
    fake.trouble = ZeroDivisionError("in the backend")
    with pytest.raises(ZeroDivisionError, match="in the backend"):
        encode(bundle, "fake")
    assert fake.open_components == []


def test_what_a_backend_computes_must_be_finite(bundle: Bundle, fake: FakeBackend) -> None:
    fake.value = np.inf
    with pytest.raises(NumericError, match="siglip engine of fake computed a NaN or an infinity"):
        encode(bundle, "fake")


def test_what_a_backend_cannot_compute_the_core_does_and_one_line_says_so(bundle: Bundle, fake: FakeBackend) -> None:
    fake.trouble = EngineError("it has no more memory")
    encoder = VisionEncoder(bundle, threads=1, engine="fake")
    with pytest.warns(Valley2Warning) as caught:
        encoded = encoder.encode(pictures(bundle), CancelToken())
    assert [str(warning.message) for warning in caught] == [
        f"The {name} engine runs in the core instead of fake: it has no more memory."
        for name in ("siglip", "projector", "eagle")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Valley2Warning)  # once is enough
        encoder.encode(pictures(bundle), CancelToken())
    assert np.array_equal(encoded.tokens[0], encode(bundle, "native"))
    assert encoded.vocabulary is not None


def test_cancel_reaches_a_backend(bundle: Bundle, fake: FakeBackend) -> None:
    fake.waits = True
    encoder, token = VisionEncoder(bundle, threads=1, engine="fake", keep=True), CancelToken()
    threading.Timer(0.3, token.cancel).start()
    with pytest.raises(Cancelled):
        encoder.encode(pictures(bundle), token)
    fake.waits = False
    token.clear()
    assert len(encoder.encode(pictures(bundle), token).tokens) == 1
    encoder.release()


def test_plan_adds_up_what_a_backend_says(bundle: Bundle, fake: FakeBackend) -> None:
    settings = MemorySettings(context_length=4096, threads=1, vision_engine="fake")
    (picture,) = prepare_pictures(
        [np.zeros((720, 1280, 3), np.uint8)], bundle.manifest.architecture, settings.picture_policy
    )
    planned = plan_bundle(bundle, [(1280, 720)], settings, process_bytes=0)
    assert (planned.siglip_bytes, planned.projector_bytes, planned.eagle_bytes) == (1000 << 20, 100 << 20, 10 << 20)
    assert planned.siglip_work_bytes == 1 << 10
    assert planned.eagle_work_bytes == picture.geometry.eagle_patches << 10
    assert planned.tiles_phase_bytes == planned.picture_bytes + (1100 << 20) + (1 << 10)
    assert planned.gpu_bytes == 0
    budget = MemoryBudget(bundle, 1 << 40, settings)
    assert budget.choose(settings).plan.siglip_bytes == 1000 << 20


def test_graphs_are_planned_in_fp32(bundle: Bundle) -> None:
    settings = MemorySettings(context_length=4096, threads=1, vision_engine="onnx")
    planned = plan_bundle(bundle, [(1280, 720)], settings)
    native = plan_bundle(bundle, [(1280, 720)], replace(settings, vision_engine="native"))
    assert planned.siglip_bytes == 2 * bundle.manifest.files["vision/siglip.safetensors"].size
    assert planned.eagle_work_bytes > native.eagle_work_bytes


def test_a_plan_raises_what_a_backend_raises(
    bundle: Bundle, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> BackendCost:
        raise InputError("it cannot say")

    monkeypatch.setattr(fake, "cost", refuse)
    settings = MemorySettings(context_length=4096, vision_engine="fake")
    with pytest.raises(InputError, match="it cannot say"):
        plan_bundle(bundle, [(60, 40)], settings)


def test_whole_model_answers_with_a_registered_backend(graph_bundle: Path, fake: FakeBackend) -> None:
    with Valley2.load(graph_bundle, threads=1, vision_engine="fake") as model:
        session = model.session()
        "".join(session.ask("What is this?", images=[PIXELS], max_new_tokens=2))
        assert session.statistics.providers["eagle"] == ["fake"]
        runs = len(fake.runs)
        "".join(model.session().ask("What is that?", images=[PIXELS], max_new_tokens=2))
        assert len(fake.runs) == runs  # the vision cache knows the picture
