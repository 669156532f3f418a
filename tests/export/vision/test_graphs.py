"""Graphs are made of native towers, without torch: the tower's bits, and what the tower computes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors.numpy import load_file

from valley2_edge.config import ModelConfig, ProjectorType, TokenizeFunction
from valley2_edge.errors import BundleError, ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.onnx.graph import PAGE_BYTES
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint
from valley2_edge.export.vision import graphs
from valley2_edge.export.vision.component import export_vision
from valley2_edge.export.vision.graphs import make_graph, write_graph
from valley2_edge.export.vision.onnx_eagle import BLOCK
from valley2_edge.export.vision.sample_inputs import block_positions
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.runtime.core.vision_engine import ComponentName

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"
COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")
PROJECTORS: list[tuple[ProjectorType, TokenizeFunction]] = [
    ("ovis_conv_adapter", "softmax"),
    ("ovis_conv_adapter", "st_argmax"),
    ("conv_adapter", "softmax"),
    ("mlp_pixel_shuffle", "softmax"),
]
SIGLIP = "model.vision_tower.vision_tower.vision_model."
PROJECTOR = "model.mm_projector."
EAGLE = "model.qwen2vl_vision_tower."

Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with Checkpoint.open(CHECKPOINT) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with towers in bf16 and their graphs."""
    return make_all(checkpoint, tmp_path_factory.mktemp("made"), "bf16", COMPONENTS)


def make_all(checkpoint: Checkpoint, directory: Path, precision: Any, components: tuple[ComponentName, ...]) -> Path:
    folder = directory / "vision"
    for component in components:
        export_vision(checkpoint, component, directory, precision)
        source, path = folder / f"{component}.safetensors", folder / f"{component}.onnx"
        make_graph(source, component, checkpoint.config, path)
    return folder


def weights_of(path: Path) -> dict[str, onnx.TensorProto]:
    """The weights of a graph, without shapes, scalars and the frequencies of the rotation, which no tower has."""
    model = onnx.load(str(path))
    kinds = (TensorProto.FLOAT, TensorProto.BFLOAT16)
    named = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type in kinds}
    return {name: tensor for name, tensor in named.items() if not name.startswith(("scalar.", "rotation."))}


def bits(checkpoint: Checkpoint, *names: str) -> Bits:
    """Tensors of the checkpoint, one below the other, as the bits of bf16."""
    tensors = [checkpoint.tensor(name) for name in names]
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors)
    return torch.cat(tensors).view(torch.int16).numpy().view(np.uint16)


def matrices_of(checkpoint: Checkpoint, component: ComponentName) -> dict[str, Bits]:
    """The checkpoint's matrices as a graph must have them."""
    config = checkpoint.config
    if component == "projector":
        return {
            "convolution": bits(checkpoint, PROJECTOR + "conv.weight"),
            "vocabulary": bits(checkpoint, PROJECTOR + "mlp.0.weight").T,
            "mixture": bits(checkpoint, PROJECTOR + "embedding.weight"),
        }
    if component == "siglip":
        found = {"patch_embedding": bits(checkpoint, SIGLIP + "embeddings.patch_embedding.weight")}
        for index in range(config.siglip.num_hidden_layers):
            layer, source = f"layers.{index}.", f"{SIGLIP}encoder.layers.{index}."
            qkv = [f"{source}self_attn.{part}_proj.weight" for part in "qkv"]
            found[layer + "qkv"] = bits(checkpoint, *qkv).T
            found[layer + "output"] = bits(checkpoint, source + "self_attn.out_proj.weight").T
            found[layer + "up"] = bits(checkpoint, source + "mlp.fc1.weight").T
            found[layer + "down"] = bits(checkpoint, source + "mlp.fc2.weight").T
        return found
    assert config.eagle is not None
    kernel = bits(checkpoint, EAGLE + "patch_embed.proj.weight")  # (embed, 3, temporal, y, x)
    slices = [kernel[:, :, slice_].reshape(len(kernel), -1).T for slice_ in range(config.eagle.temporal_patch_size)]
    found = {"patch_embedding": np.concatenate(slices)}
    for index in range(config.eagle.depth):
        layer, source = f"layers.{index}.", f"{EAGLE}blocks.{index}."
        for name, part in (("qkv", "attn.qkv"), ("output", "attn.proj"), ("up", "mlp.fc1"), ("down", "mlp.fc2")):
            found[layer + name] = bits(checkpoint, f"{source}{part}.weight").T
    found["merger.inner"] = bits(checkpoint, EAGLE + "merger.mlp.0.weight").T
    found["merger.outer"] = bits(checkpoint, EAGLE + "merger.mlp.2.weight").T
    return found


@pytest.mark.parametrize("component", COMPONENTS)
def test_matrices_have_the_checkpoints_bits(checkpoint: Checkpoint, made: Path, component: ComponentName) -> None:
    stored = weights_of(made / f"{component}.onnx")
    found = {name: tensor for name, tensor in stored.items() if tensor.data_type == TensorProto.BFLOAT16}
    expected = matrices_of(checkpoint, component)
    assert set(found) == {f"{name}.weight.bf16" for name in expected}
    for name, values in expected.items():
        tensor = found[f"{name}.weight.bf16"]
        assert tuple(tensor.dims) == values.shape
        np.testing.assert_array_equal(np.frombuffer(tensor.raw_data, np.uint16), values.ravel(), err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_every_weight_is_the_towers(
    checkpoint: Checkpoint, tmp_path: Path, component: ComponentName, precision: str
) -> None:
    folder = make_all(checkpoint, tmp_path, precision, (component,))
    tower = NativeFile(folder / f"{component}.safetensors")
    weights = weights_of(folder / f"{component}.onnx")
    seen = {name.removesuffix(".bf16"): np.sort(values_of(tensor)) for name, tensor in weights.items()}
    expected = {name: np.sort(values) for name, values in tower.values()}
    assert set(seen) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(seen[name], values, err_msg=name)


def values_of(tensor: onnx.TensorProto) -> NDArray[np.uint32]:
    """The bits of all numbers of a weight, widened to float32."""
    if tensor.data_type == TensorProto.BFLOAT16:
        return np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
    return np.frombuffer(tensor.raw_data, np.uint32)


class NativeFile:
    """A tower's file, read number by number as docs/bundle.md describes it."""

    def __init__(self, path: Path) -> None:
        import json

        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        self._header: dict[str, Any] = json.loads(content[8 : 8 + size])
        metadata = self._header.pop("__metadata__")
        self._matrices, self._config = json.loads(metadata["matrices"]), json.loads(metadata["config"])
        self._data = content[8 + size :]

    def values(self) -> Iterator[tuple[str, NDArray[np.uint32]]]:
        """The bits of all numbers of every tensor without its padding, widened to float32."""
        for name, entry in self._header.items():
            if name.startswith("_pad."):
                continue
            raw = self._data[slice(*entry["data_offsets"])]
            matrix = self._matrices.get(name.removesuffix(".weight"))
            if matrix is None:
                width = self._width(name)
                padded = np.frombuffer(raw, np.uint32).reshape(-1, entry["shape"][-1])
                yield name, padded[:, :width].ravel()
                continue
            panels = np.frombuffer(raw, np.uint16 if entry["dtype"] == "BF16" else np.uint32)
            panels = panels.reshape(entry["shape"]).astype(np.uint32) << (16 if entry["dtype"] == "BF16" else 0)
            row, column = np.indices((matrix["rows"], matrix["columns"]))
            words = entry["shape"][3]
            yield name, panels[row // 32, column // words, row % 32, column % words].ravel()

    def _width(self, name: str) -> int:
        """Numbers of a vector: as many as its matrix has rows, or the norm's channels."""
        owner = name.rpartition(".")[0]
        if owner in self._matrices:
            return int(self._matrices[owner]["rows"])
        if owner == "vocabulary_norm":
            return int(self._matrices["vocabulary"]["rows"])
        return int(self._config.get("embed_dim", self._config.get("hidden_size")))


def run_tower(path: Path, inputs: dict[str, Any]) -> Floats:
    """What the tower computes in float32, with its whole vocabulary."""
    values = next(inputs[name] for name in ("tiles", "features", "patches") if name in inputs)
    with Tower(path, isa="portable", whole_vocabulary=True) as tower:
        assert not tower.description.bf16_arithmetic
        return tower.run(values, inputs.get("positions"))


def run_graph(path: Path, inputs: dict[str, Any]) -> Floats:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    difference = np.linalg.norm(found.astype(np.float64).ravel() - expected.ravel())
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


def inputs_of(config: ModelConfig, component: ComponentName) -> dict[str, Any]:
    random, side = np.random.default_rng(7), config.siglip.patches_per_side
    if component == "siglip":
        return {"tiles": random.random((2, 3, 384, 384), dtype=np.float32) * 2 - 1}
    if component == "projector":
        return {"features": random.standard_normal((2, side**2, config.siglip.hidden_size), dtype=np.float32)}
    return {
        "patches": random.standard_normal((12 * 22, 588), dtype=np.float32),
        "positions": block_positions(12, 22, 2),
    }


@pytest.mark.parametrize("component", ["siglip", "eagle"])
def test_graph_computes_what_the_tower_does(checkpoint: Checkpoint, made: Path, component: ComponentName) -> None:
    inputs = inputs_of(checkpoint.config, component)
    found = run_graph(made / f"{component}.onnx", inputs)
    assert relative_error(found, run_tower(made / f"{component}.safetensors", inputs)) < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(("projector", "tokenize"), PROJECTORS)
def test_graph_of_every_projector_computes_what_the_tower_does(
    tmp_path: Path, projector: ProjectorType, tokenize: TokenizeFunction, precision: str
) -> None:
    config = small_config(projector, tokenize_function=tokenize)
    write_synthetic_checkpoint(tmp_path / "checkpoint", config, CHECKPOINT)
    with Checkpoint.open(tmp_path / "checkpoint") as opened:
        folder = make_all(opened, tmp_path, precision, ("projector",))
        inputs = inputs_of(opened.config, "projector")
    tower = NativeFile(folder / "projector.safetensors")
    weights = weights_of(folder / "projector.onnx")
    for name, values in tower.values():
        stored = weights.pop(f"{name}.bf16", None) or weights.pop(name)
        np.testing.assert_array_equal(np.sort(values_of(stored)), np.sort(values), err_msg=name)
    assert not weights
    found = run_graph(folder / "projector.onnx", inputs)
    assert relative_error(found, run_tower(folder / "projector.safetensors", inputs)) < 1e-5


def test_graphs_equal_the_goldens(made: Path) -> None:
    golden = load_file(GOLDEN / "vision" / "eagle_ovis_square448.safetensors")
    pre = load_file(GOLDEN / "pre" / "square448.safetensors")
    tiles = ((pre["tiles_u8"][:2] * 0.00392156862745098).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
    features = run_graph(made / "siglip.onnx", {"tiles": tiles})
    assert relative_error(features[:, ::9], golden["siglip_features"]) < 1e-5
    tokens = run_graph(made / "projector.onnx", {"features": features})
    assert relative_error(tokens[:, ::4], golden["projector_out"]) < 1e-5
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
    deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]
    patches = ((pre["eagle_patches_u8"] * (1 / 255)).astype(np.float32) - mean) / deviation
    places = block_positions(32, 32, 2)
    eagle = run_graph(made / "eagle.onnx", {"patches": patches.reshape(len(patches), -1), "positions": places})
    assert relative_error(eagle[::2], golden["eagle_features"]) < 1e-5


@pytest.mark.parametrize("tiles", [1, 3])
def test_tile_count_is_free(made: Path, tiles: int) -> None:
    pixels = np.random.default_rng(tiles).random((tiles, 3, 384, 384), dtype=np.float32)
    together = run_graph(made / "siglip.onnx", {"tiles": pixels})
    alone = [run_graph(made / "siglip.onnx", {"tiles": pixels[index : index + 1]}) for index in range(tiles)]
    assert together.shape == (tiles, 729, 144)
    assert relative_error(together, np.concatenate(alone)) < 1e-6


@pytest.mark.parametrize("grid", [(2, 2), (2, 64), (2, 66), (8, 32)])
def test_patch_count_is_free(made: Path, grid: tuple[int, int]) -> None:
    # 4, 128, 132 and 256 patches: below, at and beyond a block of queries
    assert BLOCK == 128
    patches = np.random.default_rng(0).standard_normal((grid[0] * grid[1], 588), dtype=np.float32)
    inputs = {"patches": patches, "positions": block_positions(*grid, 2)}
    tokens = run_graph(made / "eagle.onnx", inputs)
    assert tokens.shape == (len(patches) // 4, 256)
    assert relative_error(tokens, run_tower(made / "eagle.safetensors", inputs)) < 1e-5


@pytest.mark.parametrize("component", COMPONENTS)
def test_graph_stays_within_what_tensorrt_reads(made: Path, component: str) -> None:
    model = onnx.load(str(made / f"{component}.onnx"), load_external_data=False)
    (opset,) = model.opset_import
    assert opset.domain == "" and opset.version <= 21
    assert all(node.domain == "" for node in model.graph.node)
    assert not any(node.op_type.startswith("Sequence") for node in model.graph.node)
    # A Scan that carries nothing is refused as an invalid node
    assert all(len(node.input) == 2 for node in model.graph.node if node.op_type == "Scan")


@pytest.mark.parametrize(("component", "layers"), [("siglip", 2), ("eagle", 2)])
def test_attention_is_only_computed_block_by_block(made: Path, component: str, layers: int) -> None:
    model = onnx.load(str(made / f"{component}.onnx"), load_external_data=False)
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    assert len(scans) == layers
    assert not any(node.op_type == "Softmax" for node in model.graph.node)
    for scan in scans:
        (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
        assert [node.op_type for node in body.node] == ["Identity", "MatMul", "Softmax", "MatMul"]
        block = body.input[1].type.tensor_type.shape.dim[2].dim_value
        assert 0 < block <= 243


@pytest.mark.parametrize("component", COMPONENTS)
def test_weights_can_be_mapped(made: Path, component: str) -> None:
    path = made / f"{component}.onnx"
    end = 0
    for weight in onnx.load(str(path), load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in weight.external_data}
        if place:
            offset, length = int(place["offset"]), int(place["length"])
            assert offset % (PAGE_BYTES if length >= PAGE_BYTES else 64) == 0
            assert offset >= end
            end = offset + length
    assert end == path.with_name(path.name + ".data").stat().st_size


def test_weights_in_bf16_take_as_much_room_as_the_towers(made: Path) -> None:
    for component in COMPONENTS:
        graph, tower = (made / f"{component}{suffix}" for suffix in (".onnx.data", ".safetensors"))
        assert 0.85 < graph.stat().st_size / tower.stat().st_size < 1.1


def test_graphs_are_made_without_torch(made: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, transformers=None); from pathlib import Path; "
        "from valley2_edge.export.checkpoint.config import read_model_config; "
        "from valley2_edge.export.vision.graphs import make_graph; "
        "source, target, checkpoint = map(Path, sys.argv[1:]); config = read_model_config(checkpoint); "
        "[make_graph(source / f'{name}.safetensors', name, config, target / f'{name}.onnx')"
        " for name in ('siglip', 'projector', 'eagle')]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(made), str(tmp_path), str(CHECKPOINT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for component in COMPONENTS:
        for name in (f"{component}.onnx", f"{component}.onnx.data"):
            assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_tower_in_int8_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_vision(checkpoint, "siglip", tmp_path, "int8")
    with pytest.raises(ExportError, match=r"in int8.*--vision-precision bf16"):
        make_graph(tmp_path / "vision" / "siglip.safetensors", "siglip", checkpoint.config, tmp_path / "siglip.onnx")


def edited(source: Path, target: Path, before: bytes, after: bytes) -> Path:
    """A copy of a tower with other words in its header."""
    content = source.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    assert before in header
    changed = header.replace(before, after, 1)
    target.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
    return target


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"valley2-tower", b"valley2-other", "is not a vision tower that this release reads"),
        (b'"format_version":"1"', b'"format_version":"2"', "is not a vision tower that this release reads"),
        (b'"tower":"siglip"', b'"tower":"eagle"', "is not the siglip tower"),
        (b'\\"num_hidden_layers\\": 2', b'\\"num_hidden_layers\\": 3', r"has no tensor layers\.2"),
        (b'\\"hidden_size\\": 144', b'\\"hidden_size\\": 160', "has no matrix patch_embedding of 160 x 588"),
        (b'\\"hidden_size\\": 144', b'\\"hidden_size\\": true', "hidden_size: "),
        (
            b'\\"precision\\": \\"bf16\\"',
            b'\\"precision\\": \\"int4\\"',
            "in a precision that this release does not read",
        ),
        (b'"dtype":"F32"', b'"dtype":"I32"', "has no tensor"),
    ],
)
def test_damaged_tower_is_refused_by_name(made: Path, tmp_path: Path, before: bytes, after: bytes, words: str) -> None:
    path = edited(made / "siglip.safetensors", tmp_path / "siglip.safetensors", before, after)
    with pytest.raises(BundleError, match=words) as caught:
        write_graph(path, "siglip", tmp_path / "siglip.onnx")
    assert str(path) in str(caught.value)


def test_truncated_and_missing_towers_are_refused(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "siglip.safetensors"
    with pytest.raises(BundleError, match=r"siglip\.safetensors"):
        write_graph(path, "siglip", tmp_path / "siglip.onnx")
    path.write_bytes((made / "siglip.safetensors").read_bytes()[:-64])
    with pytest.raises(BundleError, match="truncated"):
        write_graph(path, "siglip", tmp_path / "siglip.onnx")


@pytest.mark.parametrize("component", COMPONENTS)
def test_graph_that_computes_something_else_is_refused(
    checkpoint: Checkpoint, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: ComponentName
) -> None:
    write = graphs.write_graph

    def write_wrong(source: Path, name: ComponentName, path: Path, *rest: Any) -> None:
        write(source, name, path, *rest)
        data = path.with_name(path.name + ".data")
        numbers = np.fromfile(data, np.uint16)
        numbers[len(numbers) // 2 :] ^= 1
        numbers.tofile(data)

    monkeypatch.setattr(graphs, "write_graph", write_wrong)
    with pytest.raises(ExportError, match=rf"{component}\.onnx differs from {component}\.safetensors by"):
        make_graph(made / f"{component}.safetensors", component, checkpoint.config, tmp_path / f"{component}.onnx")


def test_progress_reaches_its_total_in_each_stage(checkpoint: Checkpoint, made: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    report: Callable[..., None] = lambda *step: steps.append(step)  # noqa: E731
    make_graph(made / "siglip.safetensors", "siglip", checkpoint.config, tmp_path / "siglip.onnx", report)
    for stage in ("siglip: graph", "siglip: check of the graph"):
        done = [step[1] for step in steps if step[0] == stage]
        total = next(step[2] for step in steps if step[0] == stage)
        assert done == list(range(total + 1))
