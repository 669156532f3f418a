"""Vision in TensorRT: driven as TensorRT 10, 11 and TensorRT-RTX want it, kept in a cache, and never given up silently.

The fakes of TensorRT and of the driver really compute, so that answers can be compared; no GPU has run this yet.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_cuda_driver import FATBIN, FakeGpu, build_driver
from fake_tensorrt import FakeTensorRt

from valley2_edge import Valley2
from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import Cancelled, EngineError, InputError, Valley2Warning
from valley2_edge.export.vision.local_graphs import make_local_graph
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.memory import ANY_PICTURE, MemorySettings
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.devices.cuda_driver import Gpu
from valley2_edge.runtime.onnx.graph_cache import GraphCache
from valley2_edge.runtime.planning import plan_bundle
from valley2_edge.runtime.trt.cache import EngineCache, EngineKey
from valley2_edge.runtime.vision.encoder import VisionEncoder

pytestmark = pytest.mark.slow

IN_BF16 = 1e-2
"""How far the core may be from a graph, where it multiplies in bf16."""
RANDOM = np.random.default_rng(5)
PICTURE = RANDOM.integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def driver_library() -> Path:
    return build_driver()


@pytest.fixture
def gpu(driver_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(driver_library))
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    return FakeGpu(monkeypatch, tmp_path)


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def trt(request: pytest.FixtureRequest, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    fake = FakeTensorRt(rtx=request.param == "tensorrt_rtx")
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, fake if name == request.param else None)
    return fake


@pytest.fixture
def rtx(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    fake = FakeTensorRt(rtx=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return fake


@pytest.fixture(scope="module")
def bundle(graph_bundle: Path) -> Bundle:
    return open_bundle(graph_bundle)


@pytest.fixture
def silence() -> Iterator[None]:
    """Every warning of ours fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Valley2Warning)
        yield


def prepared(bundle: Bundle, policy: Policy | None = None, pixels: np.ndarray = PICTURE) -> list[PreparedPicture]:
    return prepare_pictures([pixels], bundle.manifest.architecture, policy or Policy())


def encode(bundle: Bundle, engine: str, pictures: list[PreparedPicture] | None = None) -> np.ndarray:
    encoder = VisionEncoder(bundle, threads=1, engine=engine)
    return encoder.encode(pictures or prepared(bundle), CancelToken()).tokens[0]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def expected(graph_bundle: Path) -> np.ndarray:
    return encode(open_bundle(graph_bundle), "onnx")


@pytest.mark.usefixtures("silence")
def test_tokens_are_those_of_onnx_runtime(
    bundle: Bundle, trt: FakeTensorRt, gpu: FakeGpu, expected: np.ndarray
) -> None:
    gpu.record()
    encoder = VisionEncoder(bundle, threads=1, engine="tensorrt")
    found = encoder.encode(prepared(bundle), CancelToken()).tokens[0]
    assert 0 < difference(found, expected) < 3e-3
    title = "TensorRT-RTX 1.7.1" if trt.rtx else "TensorRT 11.4.0"
    assert encoder.providers == {name: [title] for name in ("siglip", "projector", "eagle")}
    assert [event for event in trt.events if event.startswith("build")] == [
        "build siglip",
        "build projector",
        "build eagle",
    ]
    assert trt.events.count("target 86") == (3 if trt.rtx else 0)
    assert set(trt.strategies) == {trt.ExecutionContextAllocationStrategy.USER_MANAGED}
    calls = gpu.calls()
    for begin, end in (
        ("cuMemAlloc_v2", "cuMemFree_v2"),
        ("cuStreamCreate", "cuStreamDestroy_v2"),
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
        ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"),
    ):
        assert calls.count(begin) == calls.count(end) > 0, begin


@pytest.mark.usefixtures("silence")
def test_engines_are_built_once(bundle: Bundle, trt: FakeTensorRt, expected: np.ndarray) -> None:
    encode(bundle, "tensorrt")
    trt.events.clear()
    assert difference(encode(bundle, "tensorrt"), expected) < 3e-3
    assert not [event for event in trt.events if event.startswith("build")]
    assert "run eagle" in trt.events


@pytest.mark.parametrize("change", ["TensorRT", "driver", "capability"])
def test_whatever_an_engine_depends_on_builds_it_anew(
    bundle: Bundle, rtx: FakeTensorRt, gpu: FakeGpu, change: str
) -> None:
    encode(bundle, "tensorrt")
    rtx.events.clear()
    if change == "TensorRT":
        rtx.__version__ = "1.8.0"
    elif change == "driver":
        gpu.set(version=13010)
    else:
        gpu.set(capability=89)
    encode(bundle, "tensorrt")
    assert len([event for event in rtx.events if event.startswith("build")]) == 3
    # Another GPU may be put back; another version will not.
    assert len(EngineCache().entries()) == (6 if change == "capability" else 3)


def test_key_names_the_graph_and_the_gpu(bundle: Bundle, fp32_bundle: Path, rtx: FakeTensorRt) -> None:
    exact = open_bundle(fp32_bundle)
    for component in ("siglip", "projector", "eagle"):
        make_local_graph(exact, component)
    for one in (bundle, exact):
        encode(one, "tensorrt")
    keys = [entry.key for entry in EngineCache().entries()]
    assert len({key.graph for key in keys}) == 6
    assert {(key.capability, key.driver, key.version) for key in keys} == {("8.6", "CUDA 13.0", "1.7.1")}
    assert all(key.gpu for key in keys)


def test_engine_that_was_built_elsewhere_serves_its_compute_capability(gpu: FakeGpu) -> None:
    elsewhere = EngineKey("siglip", "graph", "fp16", 9, "8.6", "tensorrt_rtx", "1.7.1")
    here = EngineKey("siglip", "graph", "fp16", 9, "8.6", "tensorrt_rtx", "1.7.1", "GeForce", "580.1")
    cache = EngineCache()
    cache.store(elsewhere, b"elsewhere")
    assert cache.find(here) == b"elsewhere"
    cache.store(here, b"here")
    assert (cache.find(here), cache.find(elsewhere)) == (b"here", b"elsewhere")
    other = EngineKey("siglip", "graph", "fp16", 9, "8.9", "tensorrt_rtx", "1.7.1", "GeForce", "580.1")
    assert cache.find(other) is None


def test_pictures_beyond_the_usual_cap_get_an_engine_of_their_own(bundle: Bundle, rtx: FakeTensorRt) -> None:
    large = RANDOM.integers(0, 256, (28 * 30, 28 * 30, 3), dtype=np.uint8)
    pictures = prepared(bundle, Policy(tiles=False, eagle_preset="document"), large)
    assert pictures[0].geometry.eagle_patches > 2916
    encode(bundle, "tensorrt")
    assert difference(encode(bundle, "tensorrt", pictures), encode(bundle, "onnx", pictures)) < 3e-3
    rows = sorted(entry.key.most_rows for entry in EngineCache().entries() if entry.key.component == "eagle")
    assert rows == [2916, 5120]


@pytest.mark.parametrize("trouble", ["build", "load", "run", "nan", "wrong"])
def test_what_tensorrt_cannot_do_the_core_does_and_one_line_says_so(
    bundle: Bundle, trt: FakeTensorRt, expected: np.ndarray, trouble: str
) -> None:
    said = {
        "build": "could not build eagle.onnx: no kernel for eagle",
        "load": "does not load it: the engine is of another kind",
        "run": "does not run it: it gives no reason",
        "nan": "it computed a NaN or an infinity",
        "wrong": "than the CPU: the results for the bundle's self-test differ by 5.0e-02, and 1e-02 is allowed",
    }[trouble]
    if trouble == "build":
        trt.unbuildable = {"eagle"}
    elif trouble == "load":
        trt.unloadable = 10
    else:
        trt.fails = "eagle" if trouble == "run" else trouble
    encoder = VisionEncoder(bundle, threads=1, engine="tensorrt")
    with pytest.warns(Valley2Warning) as caught:
        first = encoder.encode(prepared(bundle), CancelToken()).tokens[0]
    broken = ["eagle"] if trouble in ("build", "run") else ["siglip", "projector", "eagle"]
    for name, warning in zip(broken, caught, strict=True):
        text = str(warning.message)
        assert text.startswith(f"The {name} engine runs in the core instead of TensorRT: ") and said in text
        assert encoder.providers[name][0].startswith("native ")
    assert ("TensorRT" in encoder.providers["siglip"][0]) == (broken == ["eagle"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", Valley2Warning)  # once is enough
        second = encoder.encode(prepared(bundle), CancelToken()).tokens[0]
    assert np.array_equal(first, second) and difference(first, expected) < IN_BF16


@pytest.mark.usefixtures("silence")
def test_engine_is_compared_with_the_cpu_once_a_driver(bundle: Bundle, rtx: FakeTensorRt, gpu: FakeGpu) -> None:
    runs = []
    for version in (13000, 13000, 13010):
        gpu.set(version=version)
        rtx.events.clear()
        encode(bundle, "tensorrt")
        runs.append(rtx.events.count("run eagle"))
    assert runs == [2, 1, 2]


def test_engine_that_computes_wrong_is_not_built_again_each_time(bundle: Bundle, rtx: FakeTensorRt) -> None:
    rtx.fails = "wrong"
    for builds in (3, 0):
        rtx.events.clear()
        with pytest.warns(Valley2Warning, match="runs in the core instead of TensorRT"):
            encode(bundle, "tensorrt")
        assert len([event for event in rtx.events if event.startswith("build")]) == builds


def test_gpu_without_enough_memory_falls_back(bundle: Bundle, rtx: FakeTensorRt, gpu: FakeGpu) -> None:
    gpu.set(memory=1 << 20)
    with pytest.warns(Valley2Warning, match="siglip engine runs in the core.*: the GPU has not enough memory"):
        encode(bundle, "tensorrt")


def test_full_disk_while_building_falls_back(
    bundle: Bundle, rtx: FakeTensorRt, gpu: FakeGpu, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: object, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("valley2_edge.runtime.trt.half_engine.onnx.save", refuse)
    with pytest.warns(Valley2Warning, match="siglip engine runs in the core.*cannot be written.*No space left"):
        found = encode(bundle, "tensorrt")
    assert difference(found, expected) < IN_BF16


def test_missing_gpu_and_missing_tensorrt_are_said_once(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    reasons = []
    for _ in range(2):
        with pytest.warns(Valley2Warning) as caught:
            encode(bundle, "tensorrt")
        (warning,) = caught
        reasons.append(str(warning.message))
        gpu.set(devices=0)
    assert "valley2-edge[trt-rtx]" in reasons[0] and "valley2-edge[trt]" in reasons[0]
    assert reasons[1] == "The vision engines run in the core instead of TensorRT: the NVIDIA driver finds no GPU."


def test_damaged_engine_is_built_anew(bundle: Bundle, rtx: FakeTensorRt, expected: np.ndarray) -> None:
    encode(bundle, "tensorrt")
    (entry,) = (entry for entry in EngineCache().entries() if entry.key.component == "eagle")
    content = bytearray(entry.path.read_bytes())
    content[-1] ^= 1
    entry.path.write_bytes(content)
    rtx.events.clear()
    assert difference(encode(bundle, "tensorrt"), expected) < 3e-3
    assert [event for event in rtx.events if event.startswith("build")] == ["build eagle"]
    rtx.events.clear()
    rtx.unloadable = 1  # whole, but TensorRT does not take it
    encode(bundle, "tensorrt")
    assert [event for event in rtx.events if event.startswith("build")] == ["build siglip"]


def test_engine_that_cannot_be_kept_is_used_all_the_same(
    bundle: Bundle, rtx: FakeTensorRt, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(Valley2Warning, match="siglip engine cannot be kept for the next time: .*No space left"):
        found = encode(bundle, "tensorrt")
    assert difference(found, expected) < 3e-3
    assert not list(EngineCache().directory.iterdir())  # no part of a file stays


def test_what_rtx_compiled_at_run_time_is_kept(bundle: Bundle, rtx: FakeTensorRt) -> None:
    encode(bundle, "tensorrt")
    assert rtx.kernels == []
    encode(bundle, "tensorrt")
    assert sorted(rtx.kernels) == [b"kernels of eagle", b"kernels of projector", b"kernels of siglip"]
    cache = EngineCache()
    key = cache.entries()[0].key
    assert cache.kernels(key, Gpu("another", "8.6", "1")) == b""


def test_build_reports_and_can_be_cancelled(bundle: Bundle, rtx: FakeTensorRt) -> None:
    steps: list[tuple[str, int, int]] = []
    encoder, token = VisionEncoder(bundle, threads=1, engine="tensorrt"), CancelToken()
    encoder.encode(prepared(bundle), token, lambda *step: steps.append(step))
    assert [step for step in steps if step[0] == "build"][:4] == [("build", done, 3) for done in range(4)]
    EngineCache().clear()

    def cancel(stage: str, done: int, total: int) -> None:
        if stage == "build" and done == 1:
            token.cancel()

    rtx.events.clear()
    with pytest.raises(Cancelled):
        encoder.encode(prepared(bundle), token, cancel)
    assert rtx.events == ["target 86", "build siglip"] and EngineCache().entries() == []


def test_whole_model_answers_with_it(graph_bundle: Path, rtx: FakeTensorRt) -> None:
    with Valley2.load(graph_bundle, threads=1, vision_engine="tensorrt") as model:
        session = model.session()
        assert "".join(session.ask("What is this?", images=[PICTURE], max_new_tokens=3))
        assert session.statistics.providers["eagle"] == ["TensorRT-RTX 1.7.1"]


def test_engines_that_were_built_need_no_graph(
    bundle: Bundle, rtx: FakeTensorRt, int4_bundle: Path, expected: np.ndarray
) -> None:
    plain = open_bundle(int4_bundle)
    with pytest.raises(InputError, match="run `valley2-edge engines onnx"):
        encode(plain, "tensorrt")
    for component in ("siglip", "projector", "eagle"):
        make_local_graph(plain, component)
    assert difference(encode(plain, "tensorrt"), expected) < IN_BF16
    GraphCache().clear()
    rtx.events.clear()
    encode(plain, "tensorrt")
    assert not [event for event in rtx.events if event.startswith("build")]


def test_older_drivers_are_refused_by_name(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from valley2_edge.runtime.devices.cuda_driver import CudaDriver

    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", "libm.so.6")
    with pytest.raises(EngineError, match="too old: it has no cuInit"):
        CudaDriver()
    gpu.set(fails="cuDeviceGetName")
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(build_driver()))
    with pytest.raises(EngineError, match="failed in cuDeviceGetName"):
        CudaDriver()


def test_decoder_and_vision_share_the_gpu(
    graph_bundle: Path, rtx: FakeTensorRt, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are the same with the weights on the GPU all the time and with them away while pictures are encoded."""
    (tmp_path / "valley2.fatbin").write_bytes(FATBIN)
    monkeypatch.setenv("VALLEY2_CUDA_KERNELS", str(tmp_path))
    opened = open_bundle(graph_bundle)
    longest = opened.manifest.architecture.decoder.max_position_embeddings
    wanted = MemorySettings(
        context_length=min(4096, longest), device="cuda", vision_engine="tensorrt", gpu_memory=1 << 40
    )
    apart = plan_bundle(opened, [ANY_PICTURE], replace(wanted, offload_weights=True), conversation=True)
    gpu.set(memory=1 << 40)
    answers = []
    for memory, text in ((1 << 40, "everything stays"), (apart.gpu_bytes, "the decoder leaves")):
        loading = Valley2.load(
            graph_bundle, threads=1, device="cuda", vision_engine="tensorrt", gpu_memory=memory, vision_cache_bytes=0
        )
        with loading as model:
            assert model.gpu_choice is not None and text in model.gpu_choice.text
            session = model.session()
            gpu.record()
            for question in ("What is this?", "And what is that?"):
                answers.append("".join(session.ask(question, images=[PICTURE[:40, :40]], max_new_tokens=2)))
            assert ("cuGraphExecDestroy" in gpu.calls()) == (text == "the decoder leaves")
    assert answers[:2] == answers[2:]
