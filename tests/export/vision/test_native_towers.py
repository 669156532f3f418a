"""The native vision towers compute what the reference computes, and a file that they cannot read is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from valley2_edge.config import EagleConfig
from valley2_edge.errors import BundleError, Cancelled, InputError, NumericError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.vision.component import export_vision
from valley2_edge.export.vision.native_panels import pack_floats, pack_int8, round_activations, round_matrix
from valley2_edge.export.vision.sample_inputs import block_positions
from valley2_edge.export.vision.smoothing import NormedMatrix, balance, smooth
from valley2_edge.precisions import VisionPrecision
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.runtime.core.vision_engine import ComponentName

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
ISAS = [isa for isa in ISA_NUMBERS if isa != "auto" and isa_available(isa)]
COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")
PRECISIONS: tuple[VisionPrecision, ...] = ("int8", "bf16", "fp32")
SHAPES = {"siglip": (-1, 729, 144), "projector": (-1, 196, 256), "eagle": (-1, 256)}

Array = NDArray[np.float32]


def relative_error(value: Array, expected: Array) -> float:
    difference = np.linalg.norm(value.astype(np.float64) - expected)
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as opened:
        yield opened


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories by precision."""
    directories = {}
    for precision in PRECISIONS:
        directories[precision] = tmp_path_factory.mktemp(precision)
        for component in COMPONENTS:
            export_vision(checkpoint, component, directories[precision], precision)
    return directories


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    """Every 9th patch of the first two tiles, every 4th of their tokens, every 2nd Eagle token."""
    return load_file(GOLDEN / "vision" / "eagle_ovis_square448.safetensors")


@pytest.fixture(scope="module")
def inputs(golden: dict[str, Array]) -> dict[str, Array]:
    pre = load_file(GOLDEN / "pre" / "square448.safetensors")
    halves = (pre["tiles_u8"][:2] * 0.00392156862745098).astype(np.float32) - np.float32(0.5)
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
    deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]
    patches = ((pre["eagle_patches_u8"] * (1 / 255)).astype(np.float32) - mean) / deviation
    return {"siglip": halves / np.float32(0.5), "eagle": patches.reshape(len(patches), -1)}


def run(path: Path, component: str, values: Array, *, threads: int = 2, isa: str = "auto") -> Array:
    positions = block_positions(32, len(values) // 32, 2) if component == "eagle" else None
    with Tower(path / "vision" / f"{component}.safetensors", threads=threads, isa=isa) as tower:
        return tower.run(values, positions).reshape(SHAPES[component])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_towers_equal_the_goldens(
    exported: dict[str, Path], golden: dict[str, Array], inputs: dict[str, Array], precision: str, isa: str
) -> None:
    # bf16 weights are the checkpoint's own: without bf16 arithmetic only the order of additions differs
    with Tower(exported["bf16"] / "vision" / "siglip.safetensors", threads=1, isa=isa) as tower:
        rounds = tower.description.bf16_arithmetic
    # The projector makes 3e-2 of the 1.6e-2 that SigLIP loses in int8
    limit = {"int8": 5e-2, "bf16": 1e-2 if rounds else 1e-5, "fp32": 1e-5}[precision]
    directory = exported[precision]
    features = run(directory, "siglip", inputs["siglip"], isa=isa)
    assert relative_error(features[:, ::9], golden["siglip_features"]) < limit
    tokens = run(directory, "projector", features, isa=isa)
    assert relative_error(tokens[:, ::4], golden["projector_out"]) < limit
    eagle = run(directory, "eagle", inputs["eagle"], isa=isa)
    assert relative_error(eagle[::2], golden["eagle_features"]) < limit


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("component", ["siglip", "eagle"])
def test_result_does_not_depend_on_threads(
    exported: dict[str, Path], inputs: dict[str, Array], component: str, precision: str
) -> None:
    one, two, five = (run(exported[precision], component, inputs[component], threads=count) for count in (1, 2, 5))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, five)


def test_tiles_do_not_see_each_other(exported: dict[str, Path], inputs: dict[str, Array]) -> None:
    together = run(exported["int8"], "siglip", inputs["siglip"])
    alone = [run(exported["int8"], "siglip", inputs["siglip"][index : index + 1]) for index in range(2)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("grid", [(2, 2), (2, 66), (6, 14)])
def test_any_number_of_patches(checkpoint: Checkpoint, exported: dict[str, Path], grid: tuple[int, int]) -> None:
    from valley2_edge.export.vision.torch_reference import load_eagle

    assert checkpoint.config.eagle is not None
    patches = np.random.default_rng(0).standard_normal((grid[0] * grid[1], 588), dtype=np.float32)
    with Tower(exported["bf16"] / "vision" / "eagle.safetensors") as tower:
        tokens = tower.run(patches, block_positions(*grid, 2)).reshape(-1, 256)
    with torch.inference_mode():
        expected = load_eagle(checkpoint, checkpoint.config.eagle)(torch.from_numpy(patches), *grid).numpy()
    assert relative_error(tokens, expected) < 1e-2


def test_projector_keeps_its_bound_on_what_it_drops(exported: dict[str, Path]) -> None:
    features = np.random.default_rng(3).standard_normal((1, 729, 144), dtype=np.float32)
    path = exported["bf16"] / "vision" / "projector.safetensors"
    with Tower(path, whole_vocabulary=True) as tower:
        whole = tower.run(features).reshape(196, 256)
        assert tower.vocabulary.dropped_mass == 0
        assert tower.vocabulary.multiplied == 196 * 320
    largest = np.linalg.norm(load_embedding(), axis=1).max()
    for dropped_mass in (1e-3, 0.1, 0.4):
        with Tower(path, dropped_mass=dropped_mass) as tower:
            part = tower.run(features).reshape(196, 256)
            use = tower.vocabulary
        assert use.tokens == 196
        assert use.dropped_mass <= dropped_mass * (1 + 1e-5)
        # Rounding to bf16 apart, a token moves by no more than the dropped entries could contribute
        moved = np.linalg.norm(part - whole, axis=1)
        assert np.all(moved <= dropped_mass * largest + 1e-2 * np.linalg.norm(whole, axis=1))
    assert use.entries < use.multiplied <= 196 * 320
    assert use.dropped_mass > 0


def load_embedding() -> Array:
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as opened:
        return opened.tensor("model.mm_projector.embedding.weight").float().numpy()


def test_projector_of_few_loud_entries_multiplies_few(tmp_path: Path) -> None:
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file

    shutil.copytree(GOLDEN / "ckpt" / "eagle_ovis", tmp_path / "c")
    for shard in (tmp_path / "c").glob("*.safetensors"):
        tensors = load_torch(shard)
        if "model.mm_projector.mlp.1.weight" in tensors:
            tensors["model.mm_projector.mlp.1.weight"].fill_(12.0)
            save_file(tensors, shard)
    with Checkpoint.open(tmp_path / "c") as opened:
        assert export_vision(opened, "projector", tmp_path, "bf16").relative_error < 5e-2
    features = np.random.default_rng(3).standard_normal((1, 729, 144), dtype=np.float32)
    with Tower(tmp_path / "vision" / "projector.safetensors", dropped_mass=1e-2) as tower:
        tower.run(features)
        use = tower.vocabulary
    assert use.entries < 196 * 320 / 10
    assert 0 < use.dropped_mass <= 1e-2


def test_cancelling_stops_within_a_layer(exported: dict[str, Path], inputs: dict[str, Array]) -> None:
    with Tower(exported["int8"] / "vision" / "siglip.safetensors") as tower:
        seen: list[tuple[int, int]] = []
        tower.run(inputs["siglip"], on_layer=lambda done, total: seen.append((done, total)))
        assert seen == [(0, 2), (1, 2), (2, 2)]
        with pytest.raises(Cancelled):
            tower.run(inputs["siglip"], on_layer=lambda done, _total: done < 1)
        tower.cancel()
        with pytest.raises(Cancelled):
            tower.run(inputs["siglip"])
        tower.resume()
        tower.run(inputs["siglip"])


def test_not_a_number_names_its_stage(exported: dict[str, Path], inputs: dict[str, Array]) -> None:
    for component, stage in (("siglip", "the pixels"), ("eagle", "the patches")):
        broken = inputs[component].copy()
        broken[0].flat[0] = np.nan
        with pytest.raises(NumericError, match=stage):
            run(exported["int8"], component, broken)
    features = np.full((1, 729, 144), np.inf, np.float32)
    with pytest.raises(NumericError, match="the features"):
        run(exported["int8"], "projector", features)


def test_infinity_inside_names_its_layer(exported: dict[str, Path], inputs: dict[str, Array], tmp_path: Path) -> None:
    edit_tensor(exported["bf16"], tmp_path, "layers.1.up.bias", np.float32(np.inf))
    with pytest.raises(NumericError, match=r"siglip tower.*the MLP of layer 1"):
        run(tmp_path, "siglip", inputs["siglip"])


def test_input_of_another_shape_is_refused(exported: dict[str, Path]) -> None:
    with Tower(exported["int8"] / "vision" / "eagle.safetensors") as tower:
        patches = np.zeros((6, 588), np.float32)
        with pytest.raises(InputError, match="588 numbers"):
            tower.run(patches[:, :10])
        with pytest.raises(InputError, match="multiples of 4"):
            tower.run(patches, np.zeros((6, 2), np.int64))
        with pytest.raises(InputError, match="positions"):
            tower.run(patches[:4])
        with pytest.raises(InputError, match=r"positions must be \(4, 2\)"):
            tower.run(patches[:4], np.zeros((3, 2), np.int64))
        with pytest.raises(InputError, match="position -1"):
            tower.run(patches[:4], np.full((4, 2), -1, np.int64))
    with pytest.raises(InputError, match="dropped_mass"):
        Tower(exported["int8"] / "vision" / "projector.safetensors", dropped_mass=0.7)


def edit_header(source: Path, target: Path, edit: tuple[str, str]) -> Path:
    """A copy of a tower with another text in its header, of the same length."""
    content = (source / "vision" / "siglip.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    before, after = (text.encode() for text in edit)
    header = content[8 : 8 + size]
    assert header.count(before) >= 1
    changed = header.replace(before, after, 1)
    changed = changed.rstrip() if len(changed) > size else changed
    (target / "vision").mkdir()
    path = target / "vision" / "siglip.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + changed.ljust(size) + content[8 + size :])
    return path


def edit_tensor(source: Path, target: Path, name: str, value: np.float32) -> None:
    """A copy of the SigLIP tower with another first number in one tensor."""
    content = bytearray((source / "vision" / "siglip.safetensors").read_bytes())
    size = int.from_bytes(content[:8], "little")
    begin = 8 + size + json.loads(content[8 : 8 + size])[name]["data_offsets"][0]
    content[begin : begin + 4] = value.tobytes()
    (target / "vision").mkdir()
    (target / "vision" / "siglip.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("valley2-tower", "valley2-other"), "is not a vision tower"),
        (('"format_version":"1"', '"format_version":"2"'), "another format version"),
        (('"tower":"siglip"', '"tower":"sigtop"'), "'sigtop', which is unknown"),
        (('\\"num_hidden_layers\\": 2', '\\"num_hidden_layers\\": 3'), "is missing|lacks"),
        (('\\"hidden_size\\": 144', '\\"hidden_size\\": 145'), "heads|size|shape"),
        (('\\"precision\\": \\"int8\\"', '\\"precision\\": \\"int9\\"'), "unknown precision"),
        (('"I32"', '"F32"'), "dtype"),
    ],
)
def test_damaged_towers_are_refused(
    exported: dict[str, Path], tmp_path: Path, edit: tuple[str, str], words: str
) -> None:
    path = edit_header(exported["int8"], tmp_path, edit)
    with pytest.raises(BundleError, match=words):
        Tower(path)


def test_truncated_towers_are_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "siglip.safetensors"
    path.write_bytes((exported["int8"] / "vision" / "siglip.safetensors").read_bytes()[:-64])
    with pytest.raises(BundleError, match="truncated"):
        Tower(path)
    with pytest.raises(BundleError):
        Tower(tmp_path / "missing.safetensors")


def test_smoothing_changes_nothing_before_rounding_and_helps_after() -> None:
    random = torch.Generator().manual_seed(1)
    norm = torch.rand(64, generator=random) + 0.5
    norm[7] = 40.0  # an outlier channel
    part = NormedMatrix(
        norm,
        torch.randn(64, generator=random),
        torch.randn(48, 64, generator=random),
        torch.randn(48, generator=random),
    )
    smoothed = smooth(part)
    tokens = torch.randn(200, 64, generator=random)
    expected = (tokens * part.norm_weight + part.norm_bias) @ part.weight.T + part.bias
    found = (tokens * smoothed.norm_weight + smoothed.norm_bias) @ smoothed.weight.T + smoothed.bias
    assert float((found - expected).norm() / expected.norm()) < 1e-5

    def error(of: NormedMatrix) -> float:
        inputs = round_activations(tokens * of.norm_weight + of.norm_bias)
        return float((inputs @ round_matrix(of.weight).dequantized().T + of.bias - expected).norm() / expected.norm())

    assert error(smoothed) < 0.5 * error(part)


def test_balance_evens_the_channels_between_two_matrices() -> None:
    inner, outer = torch.ones(4, 3), torch.ones(5, 4)
    inner[2] *= 100
    factor = balance(inner, torch.zeros(4), outer)
    sizes = (inner / factor[:, None]).norm(dim=1)
    assert float(sizes.max() / sizes.min()) == pytest.approx(10)


def test_panels_hold_every_weight_at_its_place() -> None:
    q = torch.randint(-127, 128, (37, 6), dtype=torch.int8)
    packed = pack_int8(q).view(torch.int8)
    assert packed.shape == (2, 2, 32, 4)
    assert packed[1, 1, 4, 1] == q[36, 5]
    assert int(packed[1, :, 5:].abs().sum()) == 0
    floats = torch.randn(37, 5).to(torch.bfloat16)
    assert pack_floats(floats).shape == (2, 3, 32, 2)
    assert pack_floats(floats)[0, 2, 31, 0] == floats[31, 4]


def test_eagle_of_odd_heads_is_refused(checkpoint: Checkpoint, exported: dict[str, Path], tmp_path: Path) -> None:
    assert isinstance(checkpoint.config.eagle, EagleConfig)
    content = (exported["int8"] / "vision" / "eagle.safetensors").read_bytes()
    path = tmp_path / "eagle.safetensors"
    path.write_bytes(content.replace(b'\\"num_heads\\": 2', b'\\"num_heads\\": 3', 1))
    with pytest.raises(BundleError, match="heads"):
        Tower(path)
