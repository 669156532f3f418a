"""The exported vision graphs compute what the reference computes, and a graph that does not is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file

from valley2_edge.config import ProjectorConfig, ProjectorType
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.onnx.graph import PAGE_BYTES
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint
from valley2_edge.export.vision import component as vision
from valley2_edge.export.vision.component import block_positions, export_vision
from valley2_edge.export.vision.onnx_eagle import BLOCK
from valley2_edge.export.vision.torch_reference import ProjectorReference, load_eagle, load_projector, load_siglip
from valley2_edge.precisions import VisionPrecision
from valley2_edge.runtime.core.vision_engine import ComponentName

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
CASE = "square448"
EAGLE_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
EAGLE_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]
COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")

Array = NDArray[np.float32]
Run = Callable[..., Array]


def relative_error(value: Array, expected: Array) -> float:
    difference = np.linalg.norm(value.astype(np.float64) - expected)
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


def open_graph(directory: Path, component: str) -> Run:
    path = directory / "vision" / f"{component}.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda **inputs: np.asarray(session.run(None, inputs)[0])


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as opened:
        yield opened


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    for component in COMPONENTS:
        export_vision(checkpoint, component, directory, "fp32")
    return directory


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    """Every 9th patch of the first two tiles, every 4th of their tokens, every 2nd Eagle token."""
    return load_file(GOLDEN / "vision" / f"eagle_ovis_{CASE}.safetensors")


@pytest.fixture(scope="module")
def tiles() -> Array:
    pixels = load_file(GOLDEN / "pre" / f"{CASE}.safetensors")["tiles_u8"][:2]
    halves: Array = (pixels * 0.00392156862745098).astype(np.float32) - np.float32(0.5)
    return halves / np.float32(0.5)


@pytest.fixture(scope="module")
def patches() -> Array:
    pixels = load_file(GOLDEN / "pre" / f"{CASE}.safetensors")["eagle_patches_u8"]
    values: Array = ((pixels * (1 / 255)).astype(np.float32) - EAGLE_MEAN) / EAGLE_DEVIATION
    return values.reshape(len(values), -1)


def test_graphs_equal_the_goldens(exported: Path, golden: dict[str, Array], tiles: Array, patches: Array) -> None:
    features = open_graph(exported, "siglip")(tiles=tiles)
    assert relative_error(features[:, ::9], golden["siglip_features"]) < 1e-5
    tokens = open_graph(exported, "projector")(features=features)
    assert relative_error(tokens[:, ::4], golden["projector_out"]) < 1e-5
    eagle = open_graph(exported, "eagle")(patches=patches, positions=block_positions(32, 32, 2))
    assert relative_error(eagle[::2], golden["eagle_features"]) < 1e-5


def test_torch_references_equal_the_goldens(
    checkpoint: Checkpoint, golden: dict[str, Array], tiles: Array, patches: Array
) -> None:
    assert checkpoint.config.eagle is not None
    with torch.inference_mode():
        features = load_siglip(checkpoint)(torch.from_numpy(tiles))
        tokens = load_projector(checkpoint)(features)
        eagle = load_eagle(checkpoint, checkpoint.config.eagle)(torch.from_numpy(patches), 32, 32)
    assert relative_error(features.numpy()[:, ::9], golden["siglip_features"]) < 1e-5
    assert relative_error(tokens.numpy()[:, ::4], golden["projector_out"]) < 1e-5
    assert relative_error(eagle.numpy()[::2], golden["eagle_features"]) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("projector", ["ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle"])
def test_every_projector_agrees_with_torch(
    tmp_path: Path, projector: ProjectorType, precision: VisionPrecision
) -> None:
    write_synthetic_checkpoint(tmp_path / "checkpoint", small_config(projector), GOLDEN / "ckpt" / "eagle_ovis")
    with Checkpoint.open(tmp_path / "checkpoint") as opened:
        component = export_vision(opened, "projector", tmp_path, precision)
    assert component.relative_error < {"fp32": 1e-5, "fp16": 1e-3}[precision]


@pytest.mark.parametrize("projector", ["ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle"])
def test_a_projector_in_int8_has_half_the_size_of_fp16_and_a_measured_error(
    tmp_path: Path, projector: ProjectorType
) -> None:
    write_synthetic_checkpoint(tmp_path / "checkpoint", small_config(projector), GOLDEN / "ckpt" / "eagle_ovis")
    entries, sizes = {}, {}
    with Checkpoint.open(tmp_path / "checkpoint") as opened:
        for precision in ("fp16", "int8"):
            directory = tmp_path / precision
            entry = export_vision(opened, "projector", directory, precision, as_graph=True)  # type: ignore[arg-type]
            entries[precision], sizes[precision] = entry, (directory / entry.files[1]).stat().st_size
    assert (entries["int8"].precision, entries["int8"].files[0]) == ("int8", "vision/projector.onnx")
    assert entries["fp16"].relative_error < entries["int8"].relative_error < 2e-2
    assert 0.45 < sizes["int8"] / sizes["fp16"] < 0.65


def test_there_is_no_graph_of_a_tower_in_int8(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no graph of siglip in int8"):
        export_vision(checkpoint, "siglip", tmp_path, "int8", as_graph=True)


def test_pixel_shuffle_puts_neighbours_side_by_side() -> None:
    config = ProjectorConfig(type="mlp_pixel_shuffle", input_size=5, mlp_hidden_dim=1, output_size=1)
    side, ratio, channels = 27, 3, 5
    features = torch.randn(1, side * side, channels)
    shuffled = ProjectorReference(config)._shuffle(features)
    for row, column, dy, dx, channel in [(0, 0, 0, 1, 0), (8, 2, 1, 0, 4), (3, 7, 2, 2, 1)]:
        patch = (row * ratio + dy) * side + column * ratio + dx
        expected = features[0, patch, channel]
        assert shuffled[0, row * 9 + column, (dy * ratio + dx) * channels + channel] == expected


@pytest.mark.parametrize("component", COMPONENTS)
def test_fp16_halves_the_file_and_keeps_the_answer(
    checkpoint: Checkpoint, exported: Path, tmp_path: Path, component: ComponentName
) -> None:
    entry = export_vision(checkpoint, component, tmp_path, "fp16")
    assert entry.precision == "fp16"
    assert entry.relative_error < 1e-3
    assert entry.files == [f"vision/{component}.onnx", f"vision/{component}.onnx.data"]
    full, half = ((directory / entry.files[1]).stat().st_size for directory in (exported, tmp_path))
    assert 0.45 < half / full < 0.65


@pytest.mark.parametrize("tiles", [1, 3])
def test_tile_count_is_free(exported: Path, tiles: int) -> None:
    pixels = np.random.default_rng(tiles).random((tiles, 3, 384, 384), dtype=np.float32)
    run = open_graph(exported, "siglip")
    together = run(tiles=pixels)
    assert together.shape == (tiles, 729, 144)
    alone = np.concatenate([run(tiles=pixels[index : index + 1]) for index in range(tiles)])
    assert relative_error(together, alone) < 1e-6


@pytest.mark.parametrize("grid", [(2, 2), (2, 64), (2, 66), (8, 32)])
def test_patch_count_is_free(checkpoint: Checkpoint, exported: Path, grid: tuple[int, int]) -> None:
    # 4, 128, 132 and 256 patches: below, at and beyond a block of queries
    assert BLOCK == 128
    assert checkpoint.config.eagle is not None
    patches = np.random.default_rng(0).standard_normal((grid[0] * grid[1], 588), dtype=np.float32)
    tokens = open_graph(exported, "eagle")(patches=patches, positions=block_positions(*grid, 2))
    with torch.inference_mode():
        expected = load_eagle(checkpoint, checkpoint.config.eagle)(torch.from_numpy(patches), *grid).numpy()
    assert tokens.shape == (len(patches) // 4, 256)
    assert relative_error(tokens, expected) < 1e-5


@pytest.mark.parametrize("component", COMPONENTS)
def test_graph_stays_within_what_tensorrt_reads(exported: Path, component: str) -> None:
    model = onnx.load(str(exported / "vision" / f"{component}.onnx"), load_external_data=False)
    (opset,) = model.opset_import
    assert opset.domain == "" and opset.version <= 21
    assert all(node.domain == "" for node in model.graph.node)
    assert not any(node.op_type.startswith("Sequence") for node in model.graph.node)
    # A Scan that carries nothing is refused as an invalid node
    assert all(len(node.input) == 2 for node in model.graph.node if node.op_type == "Scan")


@pytest.mark.parametrize(("component", "layers"), [("siglip", 2), ("eagle", 2)])
def test_attention_is_only_computed_block_by_block(exported: Path, component: str, layers: int) -> None:
    model = onnx.load(str(exported / "vision" / f"{component}.onnx"), load_external_data=False)
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    assert len(scans) == layers
    assert not any(node.op_type == "Softmax" for node in model.graph.node)
    for scan in scans:
        (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
        assert [node.op_type for node in body.node] == ["Identity", "MatMul", "Softmax", "MatMul"]
        block = body.input[1].type.tensor_type.shape.dim[2].dim_value
        assert 0 < block <= 243


@pytest.mark.parametrize("component", COMPONENTS)
def test_weights_can_be_mapped(exported: Path, component: str) -> None:
    path = exported / "vision" / f"{component}.onnx"
    model = onnx.load(str(path), load_external_data=False)
    end = 0
    for weight in model.graph.initializer:
        place = {entry.key: entry.value for entry in weight.external_data}
        if place:
            offset, length = int(place["offset"]), int(place["length"])
            assert offset % (PAGE_BYTES if length >= PAGE_BYTES else 64) == 0
            assert offset >= end
            end = offset + length
    assert end == path.with_name(path.name + ".data").stat().st_size


def edited_checkpoint(directory: Path, name: str, value: float) -> Checkpoint:
    """The golden checkpoint with another first number in one tensor."""
    shutil.copytree(GOLDEN / "ckpt" / "eagle_ovis", directory)
    for shard in directory.glob("*.safetensors"):
        tensors = load_torch_file(shard)
        if name in tensors:
            tensors[name].view(-1)[0] = value
            save_file(tensors, shard)
    return Checkpoint.open(directory)


def test_number_beyond_fp16_names_its_tensor(tmp_path: Path) -> None:
    name = "model.mm_projector.embedding.weight"
    with (
        edited_checkpoint(tmp_path / "checkpoint", name, 1e5) as opened,
        pytest.raises(ExportError, match=r"embedding.*beyond fp16.*--vision-precision fp32"),
    ):
        export_vision(opened, "projector", tmp_path, "fp16")


def test_not_a_number_names_its_tensor(tmp_path: Path) -> None:
    name = "model.qwen2vl_vision_tower.blocks.1.mlp.fc1.weight"
    with (
        edited_checkpoint(tmp_path / "checkpoint", name, float("nan")) as opened,
        pytest.raises(ExportError, match=r"blocks\.1\.mlp\.fc1\.weight holds a NaN"),
    ):
        export_vision(opened, "eagle", tmp_path, "fp32")


def test_too_large_an_error_fails_the_export(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vision.LARGEST_ERROR, "fp32", 1e-9)
    with pytest.raises(ExportError, match=r"projector\.onnx in fp32 differs from torch by"):
        export_vision(checkpoint, "projector", tmp_path, "fp32")


def test_wrong_weights_fail_the_export(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wrong(weights: Any, *rest: Any) -> None:
        read = weights.read
        monkeypatch.setattr(type(weights), "read", lambda self, name: read(name) * 1.01)
        vision_write(weights, *rest)
        monkeypatch.undo()

    vision_write = vision.write_projector
    monkeypatch.setattr(vision, "write_projector", write_wrong)
    with pytest.raises(ExportError, match="differs from torch"):
        export_vision(checkpoint, "projector", tmp_path, "fp32")


def test_checkpoint_without_eagle_has_no_eagle_graph(tmp_path: Path) -> None:
    write_synthetic_checkpoint(tmp_path / "c", small_config(eagle=False), GOLDEN / "ckpt" / "eagle_ovis")
    with Checkpoint.open(tmp_path / "c") as opened, pytest.raises(ExportError, match="no Eagle tower"):
        export_vision(opened, "eagle", tmp_path, "fp32")


def test_progress_reaches_its_total_in_each_stage(checkpoint: Checkpoint, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    export_vision(checkpoint, "siglip", tmp_path, "fp32", lambda *step: steps.append(step))
    for stage in ("siglip: weights", "siglip: check"):
        done = [step[1] for step in steps if step[0] == stage]
        total = next(step[2] for step in steps if step[0] == stage)
        assert done == list(range(total + 1))
