"""The exported vision components compute what the reference computes, and one that does not is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file

from valley2_edge import precisions
from valley2_edge.config import ProjectorConfig, ProjectorType
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint
from valley2_edge.export.vision import component as vision
from valley2_edge.export.vision.component import export_vision
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


def relative_error(value: Array, expected: Array) -> float:
    difference = np.linalg.norm(value.astype(np.float64) - expected)
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as opened:
        yield opened


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


PROJECTORS = ("ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("projector", PROJECTORS)
def test_every_projector_agrees_with_torch(
    tmp_path: Path, projector: ProjectorType, precision: VisionPrecision
) -> None:
    write_synthetic_checkpoint(tmp_path / "checkpoint", small_config(projector), GOLDEN / "ckpt" / "eagle_ovis")
    with Checkpoint.open(tmp_path / "checkpoint") as opened:
        component = export_vision(opened, "projector", tmp_path, precision)
    assert component.relative_error < {"fp32": 1e-5, "bf16": 5e-3}[precision]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_is_one_tower_whose_matrices_have_the_precision(
    checkpoint: Checkpoint, tmp_path: Path, component: ComponentName
) -> None:
    sizes = {}
    for precision in get_args(VisionPrecision):
        entry = export_vision(checkpoint, component, tmp_path, precision)
        assert entry.files == [f"vision/{component}.safetensors"]
        # int8 is for the layers of the towers: a projector beside them is bf16.
        stored = "bf16" if (component, precision) == ("projector", "int8") else precision
        assert entry.precision == stored
        with safe_open(tmp_path / entry.files[0], "pt") as file:
            matrices = json.loads(file.metadata()["matrices"])
        rounded_less = "bf16" if precision == "int8" else precision
        assert {matrix["precision"] for name, matrix in matrices.items() if name != "patch_embedding"} == {stored}
        assert matrices.get("patch_embedding", {}).get("precision", rounded_less) == rounded_less
        sizes[precision] = (tmp_path / entry.files[0]).stat().st_size
    # Vectors are fp32 in all of them.
    assert 0.5 < sizes["bf16"] / sizes["fp32"] < 0.65


def test_pixel_shuffle_puts_neighbours_side_by_side() -> None:
    config = ProjectorConfig(type="mlp_pixel_shuffle", input_size=5, mlp_hidden_dim=1, output_size=1)
    side, ratio, channels = 27, 3, 5
    features = torch.randn(1, side * side, channels)
    shuffled = ProjectorReference(config)._shuffle(features)
    for row, column, dy, dx, channel in [(0, 0, 0, 1, 0), (8, 2, 1, 0, 4), (3, 7, 2, 2, 1)]:
        patch = (row * ratio + dy) * side + column * ratio + dx
        expected = features[0, patch, channel]
        assert shuffled[0, row * 9 + column, (dy * ratio + dx) * channels + channel] == expected


def edited_checkpoint(directory: Path, name: str, value: float) -> Checkpoint:
    """The golden checkpoint with another first number in one tensor."""
    shutil.copytree(GOLDEN / "ckpt" / "eagle_ovis", directory)
    for shard in directory.glob("*.safetensors"):
        tensors = load_torch_file(shard)
        if name in tensors:
            tensors[name].view(-1)[0] = value
            save_file(tensors, shard)
    return Checkpoint.open(directory)


def test_not_a_number_names_its_matrix(tmp_path: Path) -> None:
    name = "model.qwen2vl_vision_tower.blocks.1.mlp.fc1.weight"
    with (
        edited_checkpoint(tmp_path / "checkpoint", name, float("nan")) as opened,
        pytest.raises(ExportError, match=r"layers\.1\.up holds a NaN"),
    ):
        export_vision(opened, "eagle", tmp_path, "fp32")


def test_too_large_an_error_fails_the_export(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(precisions.LARGEST_VISION_ERROR, "fp32", 1e-9)
    with pytest.raises(ExportError, match=r"projector\.safetensors in fp32 differs from torch by"):
        export_vision(checkpoint, "projector", tmp_path, "fp32")


def test_wrong_weights_fail_the_export(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wrong(weights: Any, *rest: Any) -> None:
        read = weights.read
        monkeypatch.setattr(type(weights), "read", lambda self, name: read(name) * 1.01)
        vision_write(weights, *rest)
        monkeypatch.undo()

    vision_write = vision.write_native_projector
    monkeypatch.setattr(vision, "write_native_projector", write_wrong)
    with pytest.raises(ExportError, match="differs from torch"):
        export_vision(checkpoint, "projector", tmp_path, "fp32")


def test_checkpoint_without_eagle_has_no_eagle_tower(tmp_path: Path) -> None:
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
