"""Every kind of native projector computes what the reference computes, in every size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from valley2_edge.config import ProjectorConfig, ProjectorType, SiglipConfig
from valley2_edge.errors import BundleError, Cancelled, ExportError, NumericError
from valley2_edge.export.bundle_size import _projector_bytes
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import PROJECTOR_PREFIX, projector_tensors
from valley2_edge.export.vision.native_projector import write_native_projector
from valley2_edge.export.vision.torch_reference import ProjectorReference, load_siglip
from valley2_edge.precisions import VisionPrecision
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.tower import Tower

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
CASE = "tiny30x20"
ISAS = [isa for isa in ISA_NUMBERS if isa != "auto" and isa_available(isa)]
PRECISIONS: tuple[VisionPrecision, ...] = ("fp32", "bf16")
EXACT = 1e-5
"""Largest relative error where only the order of additions differs."""
ROUNDED = 1e-2
"""Largest relative error where activations are rounded to bf16."""

Array = NDArray[np.float32]
Tensors = dict[str, torch.Tensor]


class StoredWeights:
    """The weights of a projector without a checkpoint."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def random_weights(config: ProjectorConfig) -> Tensors:
    """Numbers that bf16 holds, so that rounding the weights changes nothing; the norm's are around one."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, shape in projector_tensors(config).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values *= math.prod(shape[1:]) ** -0.5
        else:
            values = 0.1 * values + name.endswith("mlp.1.weight")
        tensors[name] = values.to(torch.bfloat16)
    return tensors


def write(
    path: Path, config: ProjectorConfig, weights: Tensors, side: int = 27, precision: VisionPrecision = "fp32"
) -> Path:
    siglip = SiglipConfig(image_size=14 * side)
    write_native_projector(StoredWeights(weights), config, siglip, path, precision)  # type: ignore[arg-type]
    return path


def in_torch(config: ProjectorConfig, weights: Tensors, features: Array) -> Array:
    reference = ProjectorReference(config)
    reference.load_state_dict({name.removeprefix(PROJECTOR_PREFIX): value.float() for name, value in weights.items()})
    with torch.inference_mode():
        tokens: Array = reference(torch.from_numpy(features)).numpy()
    return tokens


def random_features(config: ProjectorConfig, side: int, tiles: int = 2) -> Array:
    return np.random.default_rng(3).standard_normal((tiles, side**2, config.input_size), dtype=np.float32)


def relative_error(value: Array, expected: Array) -> float:
    difference = np.linalg.norm(value.astype(np.float64).reshape(expected.shape) - expected)
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


def limit(tower: Tower, precision: str) -> float:
    return ROUNDED if precision == "bf16" and tower.description.bf16_arithmetic else EXACT


def configuration(kind: str, *sizes: int, ratio: int = 3) -> ProjectorConfig:
    """kind: a type, or the function of an ovis_conv_adapter; sizes: input, middle, output."""
    is_function = kind in ("softmax", "st_argmax")
    return ProjectorConfig(
        type="ovis_conv_adapter" if is_function else kind,  # type: ignore[arg-type]
        tokenize_function=kind if is_function else "softmax",  # type: ignore[arg-type]
        input_size=sizes[0],
        mlp_hidden_dim=sizes[1],
        output_size=sizes[2],
        pixelshuffle_downsample_ratio=ratio,
    )


@pytest.fixture(scope="module")
def features() -> Iterator[Array]:
    """The reference's features (2, 729, 144) of the case: the towers of all variants are the same."""
    pixels = load_file(GOLDEN / "pre" / f"{CASE}.safetensors")["tiles_u8"].numpy()
    halves = (pixels * 0.00392156862745098).astype(np.float32) - np.float32(0.5)
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as opened, torch.inference_mode():
        yield load_siglip(opened)(torch.from_numpy(halves / np.float32(0.5))).numpy()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("variant", "kind"), [("eagle_conv", "conv_adapter"), ("eagle_pxshuf3", "mlp_pixel_shuffle")])
def test_projectors_equal_the_goldens(
    features: Array, tmp_path: Path, variant: str, kind: ProjectorType, precision: VisionPrecision, isa: str
) -> None:
    weights = load_file(GOLDEN / "vision" / f"{variant}_{CASE}.safetensors")
    golden = weights.pop("projector_out").numpy()  # every 4th token
    path = write(tmp_path / "p.safetensors", configuration(kind, 144, 320, 256), weights, precision=precision)
    with Tower(path, isa=isa) as tower:
        tokens = tower.run(features).reshape(2, -1, 256)
        assert relative_error(tokens[:, ::4], golden) < limit(tower, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["softmax", "st_argmax", "conv_adapter", "mlp_pixel_shuffle"])
@pytest.mark.parametrize(
    ("side", "ratio", "sizes"),
    [
        (27, 3, (40, 50, 70)),  # channels that fill neither a vector nor a panel
        (6, 2, (8, 300, 34)),  # an even side: no patch below and to the right of the last windows
        (3, 1, (16, 33, 400)),
        (1, 1, (5, 7, 2)),
        (40, 10, (3, 64, 96)),  # more tokens and patches than a block has rows
    ],
)
def test_every_size_agrees_with_torch(
    tmp_path: Path, kind: str, precision: VisionPrecision, side: int, ratio: int, sizes: tuple[int, int, int]
) -> None:
    config = configuration(kind, *sizes, ratio=ratio)
    weights, values = random_weights(config), random_features(config, side)
    expected = in_torch(config, weights, values)
    path = write(tmp_path / "p.safetensors", config, weights, side, precision)
    for isa in ISAS:
        with Tower(path, isa=isa) as tower:
            assert relative_error(tower.run(values), expected) < limit(tower, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_st_argmax_is_what_the_reference_multiplies(tmp_path: Path, precision: VisionPrecision) -> None:
    config = configuration("st_argmax", 144, 320, 256)
    weights, values = random_weights(config), random_features(config, 27)
    of = {name.removeprefix(PROJECTOR_PREFIX): value.float() for name, value in weights.items()}
    patch_map = torch.from_numpy(values).transpose(1, 2).reshape(2, 144, 27, 27)
    convolved = torch.nn.functional.conv2d(patch_map, of["conv.weight"], of["conv.bias"], stride=2, padding=1)
    scores = torch.nn.functional.layer_norm(
        convolved.flatten(2).transpose(1, 2) @ of["mlp.0.weight"].T, (320,), of["mlp.1.weight"], of["mlp.1.bias"]
    )
    # The straight-through estimator: a one-hot forwards, the scores backwards
    one_hot = torch.zeros_like(scores).scatter_(-1, scores.max(dim=-1, keepdim=True).indices, 1.0)
    expected = ((one_hot - scores + scores) @ of["embedding.weight"]).numpy()
    with Tower(write(tmp_path / "p.safetensors", config, weights, precision=precision)) as tower:
        assert relative_error(tower.run(values), expected) < 1e-6
        use = tower.vocabulary
    assert (use.tokens, use.entries, use.multiplied, use.dropped_mass) == (2 * 196, 2 * 196, 2 * 196, 0)


def test_st_argmax_takes_the_first_of_equal_scores(tmp_path: Path) -> None:
    config = configuration("st_argmax", 16, 100, 40)
    weights = random_weights(config)
    # Entries 12, 45 and 90 have the same score, which is the largest: the LayerNorm's bias decides
    weights[PROJECTOR_PREFIX + "mlp.1.weight"].fill_(0)
    weights[PROJECTOR_PREFIX + "mlp.1.bias"].fill_(0)[[12, 45, 90]] = 2.0
    values = random_features(config, 27)
    with Tower(write(tmp_path / "p.safetensors", config, weights)) as tower:
        tokens = tower.run(values).reshape(-1, 40)
    chosen = weights[PROJECTOR_PREFIX + "embedding.weight"][12].float().numpy()
    np.testing.assert_array_equal(tokens, np.broadcast_to(chosen, tokens.shape))


def test_mixture_in_fp32_is_exact_when_entries_are_left_out(tmp_path: Path) -> None:
    config = configuration("softmax", 144, 320, 256)
    weights, values = random_weights(config), random_features(config, 27)
    weights[PROJECTOR_PREFIX + "mlp.1.weight"].fill_(12.0)  # a few loud entries
    expected = in_torch(config, weights, values)
    path = write(tmp_path / "p.safetensors", config, weights)
    for isa in ISAS:
        with Tower(path, isa=isa) as tower:
            assert relative_error(tower.run(values), expected) < EXACT
            assert tower.vocabulary.multiplied == 2 * 196 * 320
        with Tower(path, isa=isa, dropped_mass=1e-7) as tower:
            assert relative_error(tower.run(values), expected) < EXACT
            assert tower.vocabulary.multiplied < 2 * 196 * 320
            assert 0 < tower.vocabulary.dropped_mass <= 1e-7 * (1 + 1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["st_argmax", "conv_adapter", "mlp_pixel_shuffle"])
def test_result_depends_on_neither_threads_nor_tiles(tmp_path: Path, kind: str, precision: VisionPrecision) -> None:
    config = configuration(kind, 40, 70, 300)
    values = random_features(config, 27, tiles=3)
    path = write(tmp_path / "p.safetensors", config, random_weights(config), precision=precision)
    outputs = []
    for threads in (1, 2, 7):
        with Tower(path, threads=threads) as tower:
            outputs.append(tower.run(values).reshape(3, -1))
            alone = tower.run(values[1:2]).reshape(-1)
        np.testing.assert_array_equal(alone, outputs[0][1])
        np.testing.assert_array_equal(outputs[-1], outputs[0])


def test_projectors_without_a_vocabulary_count_nothing_and_take_tile_by_tile(tmp_path: Path) -> None:
    config = configuration("conv_adapter", 40, 70, 96)
    values = random_features(config, 27, tiles=2)
    with Tower(write(tmp_path / "p.safetensors", config, random_weights(config))) as tower:
        assert tower.plan(1).scratch_bytes == tower.plan(9).scratch_bytes
        # MLP on 729 patches, convolution at 196 tokens; an addition and its multiplication are two
        assert tower.plan(2).operations == 2 * 2 * (729 * (40 * 70 + 70 * 96) + 196 * 9 * 96 * 96)
        seen: list[tuple[int, int]] = []
        tower.run(values, on_layer=lambda done, total: seen.append((done, total)))
        assert seen == [(0, 2), (1, 2), (2, 2)]
        use = tower.vocabulary
        assert (use.tokens, use.entries, use.multiplied, use.dropped_mass) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["st_argmax", "conv_adapter", "mlp_pixel_shuffle"])
def test_a_projector_stops_when_it_is_cancelled(tmp_path: Path, kind: str) -> None:
    config = configuration(kind, 40, 70, 96)
    values = random_features(config, 27, tiles=2)
    with Tower(write(tmp_path / "p.safetensors", config, random_weights(config))) as tower:
        before = tower.run(values)
        with pytest.raises(Cancelled):
            tower.run(values, on_layer=lambda done, _total: done < 1)
        tower.cancel()
        with pytest.raises(Cancelled):
            tower.run(values)
        tower.resume()
        np.testing.assert_array_equal(tower.run(values), before)


@pytest.mark.parametrize(
    ("kind", "huge", "stage"),
    [
        ("conv_adapter", {}, "the features"),
        ("mlp_pixel_shuffle", {}, "the features"),
        ("st_argmax", {}, "the features"),
        ("conv_adapter", {"mlp.0.bias": 1e30, "mlp.2.weight": 1e30}, "the MLP"),
        ("mlp_pixel_shuffle", {"mlp.0.bias": 1e30, "mlp.2.weight": 1e30}, "the MLP"),
        ("conv_adapter", {"mlp.2.bias": 1e30, "conv.weight": 1e30}, "the convolution"),
        ("st_argmax", {"conv.bias": 1e30, "mlp.0.weight": 1e30}, "the visual vocabulary"),
    ],
)
def test_infinity_names_its_stage(tmp_path: Path, kind: str, huge: dict[str, float], stage: str) -> None:
    config = configuration(kind, 16, 20, 40)
    weights, values = random_weights(config), random_features(config, 27)
    for name, value in huge.items():
        weights[PROJECTOR_PREFIX + name].fill_(value)
    if not huge:
        values[1, 700, 3] = np.inf
    path = write(tmp_path / "p.safetensors", config, weights)
    with Tower(path) as tower, pytest.raises(NumericError, match=f"projector tower .* in {stage}"):
        tower.run(values)


def edited(path: Path, before: str, after: str) -> Path:
    """The tower with another text of the same length in its header."""
    content = path.read_bytes()
    assert len(before) == len(after)
    assert content.count(before.encode()) == 1
    path.write_bytes(content.replace(before.encode(), after.encode()))
    return path


@pytest.mark.parametrize(
    ("kind", "before", "after", "words"),
    [
        ("conv_adapter", '"conv_adapter', '"conv_adaptor', "of the type 'conv_adaptor', which is unknown"),
        ("st_argmax", '"st_argmax', '"st_argmix', "tokenize_function is 'st_argmix', which is unknown"),
        ("softmax", '"tokenize_function', '"tokenise_function', "tokenize_function"),
        ("mlp_pixel_shuffle", 'ratio\\": 3', 'ratio\\": 5', "does not divide|size"),
        ("conv_adapter", '\\"outer\\"', '\\"other\\"', "'outer' is missing"),
    ],
)
def test_files_of_other_projectors_are_refused(tmp_path: Path, kind: str, before: str, after: str, words: str) -> None:
    config = configuration(kind, 16, 20, 40)
    path = write(tmp_path / "p.safetensors", config, random_weights(config))
    with pytest.raises(BundleError, match=words):
        Tower(edited(path, before, after))


def test_a_projector_is_never_int8(tmp_path: Path) -> None:
    config = configuration("conv_adapter", 16, 20, 40)
    with pytest.raises(ExportError, match="not int8"):
        write(tmp_path / "p.safetensors", config, random_weights(config), precision="int8")


def test_scores_that_choose_are_fp32_beside_a_mixture_in_bf16(tmp_path: Path) -> None:
    config = configuration("st_argmax", 16, 20, 40)
    content = write(tmp_path / "p.safetensors", config, random_weights(config), precision="bf16").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    matrices = json.loads(header["__metadata__"]["matrices"])
    assert {name: matrix["precision"] for name, matrix in matrices.items()} == {
        "convolution": "fp32",
        "vocabulary": "fp32",
        "mixture": "bf16",
    }


def test_size_of_a_bundle_counts_the_scores_that_choose_as_fp32(tmp_path: Path) -> None:
    sizes, planned = {}, {}
    for kind in ("softmax", "st_argmax"):
        config = configuration(kind, 64, 96, 32)
        path = write(tmp_path / kind, config, random_weights(config), precision="bf16")
        sizes[kind], planned[kind] = path.stat().st_size, _projector_bytes(config, "bf16")
    # Headers differ by a few letters
    more = planned["st_argmax"] - planned["softmax"]
    assert sizes["st_argmax"] - sizes["softmax"] == pytest.approx(more, abs=128)
