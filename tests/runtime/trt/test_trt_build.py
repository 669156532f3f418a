"""TensorRT engines: types in the graph, fp16 where nothing overflows, real builds where TensorRT-RTX is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import EngineError, InputError
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.export.vision.graphs import write_graph
from valley2_edge.export.vision.sample_inputs import block_positions
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.trt.activation_ranges import nodes_beyond_half
from valley2_edge.runtime.trt.api import load_tensorrt
from valley2_edge.runtime.trt.build import build_engine, vision_profile
from valley2_edge.runtime.trt.half_engine import build_half_engine
from valley2_edge.runtime.trt.half_precision import to_half

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")
PROFILE = {"x": ((1, 8), (2, 8), (4, 8))}
SAMPLE = {"x": np.full((2, 8), 10, np.float32)}


@pytest.fixture(scope="module")
def graphs(int4_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with graphs of a bundle's towers, whose matrices are in bf16."""
    folder = tmp_path_factory.mktemp("graphs")
    for component in COMPONENTS:
        write_graph(int4_bundle / "vision" / f"{component}.safetensors", component, folder / f"{component}.onnx")
    return folder


def _bits(value: float) -> NDArray[np.uint16]:
    """A matrix (8, 8) of one value in bf16."""
    return np.full((8, 8), np.float32(value).view(np.uint32) >> 16, np.uint16)


def _write_graph(path: Path, weight: float, narrow: float = 2.0**-10) -> Path:
    """x (n, 8) times a matrix of one value, Gelu, and back to small numbers."""
    with Graph("small", path) as graph:
        x = graph.input("x", TensorProto.FLOAT, ("n", 8))
        wide = graph.node("MatMul", [x, graph.matrix("up.weight", _bits(weight))], "up")
        wide = graph.node("Gelu", [wide], "gelu", approximate="tanh")
        narrowed = graph.node("MatMul", [wide, graph.matrix("down.weight", _bits(narrow))], "down")
        ones = np.ones(8, np.float32)
        graph.output(graph.node("Add", [narrowed, graph.vector("bias", ones)], "sum"), "y", ("n", 8))
        graph.save()
    return path


def _run(model: onnx.ModelProto, feed: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def _run_as_typed(model: onnx.ModelProto, feed: dict[str, Any]) -> Any:
    """Computes in numpy, each value in the graph's type; ONNX Runtime leaves out casts between its kernels."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(model).run(None, feed)[0]


def _feeds(config: Any, component: ComponentName) -> dict[str, Any]:
    random = np.random.default_rng(1)
    if component == "siglip":
        return {"tiles": (2 * random.random((1, 3, 384, 384)) - 1).astype(np.float32)}
    if component == "projector":
        return {"features": random.standard_normal((1, 729, config.siglip.hidden_size), np.float32)}
    return {"patches": random.standard_normal((14 * 22, 588), np.float32), "positions": block_positions(14, 22, 2)}


@pytest.mark.parametrize("component", COMPONENTS)
def test_half_graph_computes_what_the_graph_does(int4_bundle: Path, graphs: Path, component: ComponentName) -> None:
    path = graphs / f"{component}.onnx"
    feed = _feeds(open_bundle(int4_bundle).manifest.architecture, component)
    assert nodes_beyond_half(path, [feed]) == set()
    model = onnx.load(str(path))
    half = to_half(model, set())
    onnx.checker.check_model(half, full_check=True)
    expected, found = _run(model, feed), _run(half, feed)
    assert found.dtype == np.float32
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 2e-3


@pytest.mark.parametrize("component", COMPONENTS)
def test_half_graph_has_the_graphs_weights_in_fp16_in_one_file(
    graphs: Path, tmp_path: Path, component: ComponentName
) -> None:
    path = graphs / f"{component}.onnx"
    model = onnx.load(str(path), load_external_data=False)
    half = to_half(model, set(), graphs, tmp_path / "half.data")
    onnx.save(half, str(tmp_path / "half.onnx"))
    stored = {tensor.name: tensor for tensor in onnx.load(str(tmp_path / "half.onnx")).graph.initializer}
    assert TensorProto.BFLOAT16 not in {tensor.data_type for tensor in stored.values()}
    wide = [tensor for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type == TensorProto.BFLOAT16]
    assert wide
    for tensor in wide:
        bits = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
        narrow = np.frombuffer(stored[f"{tensor.name.removesuffix('.bf16')}.half"].raw_data, np.float16)
        np.testing.assert_array_equal(narrow, bits.view(np.float32).astype(np.float16))
    in_memory = to_half(onnx.load(str(path)), set())
    assert {tensor.name for tensor in in_memory.graph.initializer} == set(stored)


def test_planted_outlier_overflows_and_is_kept_in_float32(tmp_path: Path) -> None:
    path = _write_graph(tmp_path / "small.onnx", 3000.0)  # 8 * 10 * 3000 is beyond 65504
    model = onnx.load(str(path))
    expected = _run(model, SAMPLE)
    assert not np.isfinite(_run_as_typed(to_half(model, set()), SAMPLE)).all()
    kept = nodes_beyond_half(path, [SAMPLE])
    assert kept == {"up", "gelu", "down"}
    assert np.allclose(_run_as_typed(to_half(model, kept), SAMPLE), expected, rtol=2e-3)


def test_weight_beyond_half_stays_in_float32_with_those_who_take_it(tmp_path: Path) -> None:
    path = _write_graph(tmp_path / "small.onnx", 2.0**-20, narrow=2.0**17)
    model = onnx.load(str(path))
    kept = nodes_beyond_half(path, [SAMPLE])
    assert kept == {"down.weight", "down"}
    half = to_half(model, kept)
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert kinds["down.weight.bf16"] == TensorProto.BFLOAT16 and kinds["up.weight.half"] == TensorProto.FLOAT16
    assert "up.weight.bf16" not in kinds and "down.weight.half" not in kinds
    assert np.allclose(_run_as_typed(half, SAMPLE), _run(model, SAMPLE), rtol=2e-3)


def test_margin_leaves_room_for_other_pictures(tmp_path: Path) -> None:
    path = _write_graph(tmp_path / "small.onnx", 300.0)  # 24000 fits fp16, but not eight times
    assert "up" in nodes_beyond_half(path, [SAMPLE])
    assert nodes_beyond_half(path, [SAMPLE], margin=1.0) == set()


def test_scores_inside_attention_are_watched(int4_bundle: Path, graphs: Path, tmp_path: Path) -> None:
    config = open_bundle(int4_bundle).manifest.architecture
    model = onnx.load(str(graphs / "siglip.onnx"))
    scale = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("scalar.0.1"))
    assert scale.data_type == TensorProto.FLOAT
    huge = onnx.numpy_helper.to_array(scale) * np.float32(1e7)  # queries, and with them the scores
    scale.CopyFrom(onnx.numpy_helper.from_array(huge, scale.name))
    path = tmp_path / "huge.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="huge.onnx.data")
    kept = nodes_beyond_half(path, [_feeds(config, "siglip")])
    assert "layers.0.attention.mixed_blocks" in kept and "layers.0.mlp.gelu" not in kept


def test_profiles_follow_the_caps(int4_bundle: Path) -> None:
    config = open_bundle(int4_bundle).manifest.architecture
    assert vision_profile(config, "siglip", 729)["tiles"][2] == (9, 3, 384, 384)
    shapes = vision_profile(config, "eagle", 729)
    assert shapes["patches"] == ((4, 588), (1024, 588), (2916, 588))
    assert shapes["positions"][2] == (2916, 2)
    assert vision_profile(config, "eagle", 64)["patches"][1:] == ((256, 588), (256, 588))
    with pytest.raises(InputError, match="at least 1"):
        vision_profile(config, "eagle", 0)
    with pytest.raises(EngineError, match="no Eagle"):
        vision_profile(config.model_copy(update={"eagle": None}), "eagle", 729)


@needs_rtx
@pytest.mark.parametrize("target", ["7.5", "8.6", "8.9"])
def test_engines_build_without_a_gpu(int4_bundle: Path, graphs: Path, target: str) -> None:
    trt = load_tensorrt("tensorrt_rtx")
    config = open_bundle(int4_bundle).manifest.architecture
    phases: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int) -> None:
        phases.append((phase, done, total))

    path = graphs / "projector.onnx"
    feeds = [_feeds(config, "projector")]
    profile = vision_profile(config, "projector", 729)
    engine = build_half_engine(trt, path, profile, feeds, target, progress)
    assert engine[:4] in (b"vtrt", b"ftrt") and len(engine) > 100_000
    assert phases[0][1] == 0 and all(done <= total for _, done, total in phases)


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("component", ["siglip", "eagle"])
def test_towers_build_for_8_6(int4_bundle: Path, graphs: Path, component: ComponentName) -> None:
    trt = load_tensorrt("tensorrt_rtx")
    config = open_bundle(int4_bundle).manifest.architecture
    path, profile = graphs / f"{component}.onnx", vision_profile(config, component, 256)
    assert len(build_half_engine(trt, path, profile, [_feeds(config, component)], "8.6")) > 1_000_000


@needs_rtx
def test_graph_of_a_tower_builds_as_it_is(int4_bundle: Path, graphs: Path) -> None:
    trt = load_tensorrt("tensorrt_rtx")
    profile = vision_profile(open_bundle(int4_bundle).manifest.architecture, "projector", 729)
    assert len(build_engine(trt, graphs / "projector.onnx", profile, "8.6")) > 100_000


@needs_rtx
def test_failed_builds_say_why(tmp_path: Path) -> None:
    trt = load_tensorrt("tensorrt_rtx")
    path = _write_graph(tmp_path / "small.onnx", 1.0)
    with pytest.raises(EngineError, match=r"small.onnx: .*(sm75|SM75|Turing)"):
        build_engine(trt, path, PROFILE, "7.5")  # Turing has no bf16
    with pytest.raises(EngineError, match=r"no target 9\.0"):
        build_engine(trt, path, PROFILE, "9.0")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"cannot read broken\.onnx"):
        build_engine(trt, tmp_path / "broken.onnx", PROFILE, "8.6")


@needs_rtx
def test_progress_may_stop_a_build(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(phase: str, done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        build_engine(load_tensorrt("tensorrt_rtx"), _write_graph(tmp_path / "small.onnx", 1.0), PROFILE, "8.6", stop)


class FakeTensorRt:
    """Full TensorRT, which cannot be installed everywhere: remembers what it was asked for."""

    __version__ = "11.4.0"

    class ILogger:
        ERROR, INTERNAL_ERROR = 1, 0

    class IProgressMonitor:
        pass

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    def __init__(self, fails: bool = False) -> None:
        self.shapes: dict[str, Any] = {}
        self.flags = -1
        self.fails = fails
        self.config = SimpleNamespace(add_optimization_profile=lambda profile: 0)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(parse_from_file=lambda path: True)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def create_network(flags: int) -> str:
            self.flags = flags
            return "network"

        def build(network: str, config: Any) -> bytes | None:
            assert network == "network" and config is self.config
            logger.log(2, "not worth keeping")
            if self.fails:
                logger.log(1, "no kernel for this node\nand more")
                return None
            return b"engine"

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: self.shapes.update({name: shapes})
            ),
            build_serialized_network=build,
        )


def test_full_tensorrt_is_driven_the_same_way(tmp_path: Path) -> None:
    fake = FakeTensorRt()
    assert build_engine(fake, tmp_path / "small.onnx", PROFILE) == b"engine"
    assert fake.shapes == PROFILE and fake.flags == 1 << 1
    with pytest.raises(EngineError, match="only TensorRT-RTX takes another target"):
        build_engine(fake, tmp_path / "small.onnx", PROFILE, "8.6")
    with pytest.raises(EngineError, match=r"could not build small\.onnx: no kernel for this node$"):
        build_engine(FakeTensorRt(fails=True), tmp_path / "small.onnx", PROFILE)


def test_missing_tensorrt_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"valley2-edge\[trt\]"):
        load_tensorrt("tensorrt")
