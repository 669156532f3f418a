"""A turn's pictures, against what the reference feeds to its vision towers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from valley2_edge.config import ModelConfig, PictureConfig
from valley2_edge.errors import InputError
from valley2_edge.options import PolicyName
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.preprocess import black_picture, prepare_pictures

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "pre").glob("*.safetensors"))
CANVASES = tuple((384 * i, 384 * j) for i in range(1, 4) for j in range(1, 4))
MODEL = ModelConfig(picture=PictureConfig(canvases=CANVASES))
EAGLE_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)[:, None, None]
EAGLE_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)[:, None, None]


def recorded_pictures(case: str) -> list[NDArray[np.uint8]]:
    with np.load(GOLDEN / "inputs" / f"{case}.npz") as archive:
        return [archive[f"image{index}"] for index in range(len(archive.files))] or [black_picture()]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("policy", ["hub", "repo"])
def test_recorded_tiles_and_patches(case: str, policy: PolicyName) -> None:
    expected = load_file(GOLDEN / "pre" / f"{case}.safetensors")
    if policy == "hub":
        expected |= load_file(GOLDEN / "pre_hf" / f"{case}.safetensors")
    prepared = prepare_pictures(recorded_pictures(case), MODEL, Policy.of_reference(policy))
    assert [picture.geometry.tile_count for picture in prepared] == expected["tiles_per_image"].tolist()
    tiles = np.concatenate([picture.tiles() for picture in prepared])
    half = np.float32(0.5)
    scaled = (expected["tiles_u8"] * 0.00392156862745098).astype(np.float32)
    np.testing.assert_array_equal(tiles, (scaled - half) / half)
    patches = np.concatenate([picture.patches()[0] for picture in prepared])
    scaled = (expected["eagle_patches_u8"] * (1 / 255)).astype(np.float32)
    np.testing.assert_array_equal(patches, ((scaled - EAGLE_MEAN) / EAGLE_STD).reshape(len(patches), -1))


def test_tokens_are_those_of_both_branches() -> None:
    (picture,) = prepare_pictures([np.zeros((448, 448, 3), np.uint8)], MODEL, Policy())
    assert (picture.geometry.siglip_tokens, picture.geometry.eagle_tokens) == (980, 256)
    assert picture.tokens == 1236


def test_several_pictures_are_one_tile_and_few_eagle_tokens_each() -> None:
    pictures = prepare_pictures([np.zeros((480, 640, 3), np.uint8)] * 2, MODEL, Policy())
    assert [picture.geometry.tile_count for picture in pictures] == [1, 1]
    assert all(picture.geometry.eagle_tokens <= 196 for picture in pictures)


def test_thin_picture_is_refused_by_the_eagle_branch_alone() -> None:
    thin = np.zeros((20000, 1, 3), np.uint8)
    with pytest.raises(InputError):
        prepare_pictures([thin], MODEL, Policy())
    (picture,) = prepare_pictures([thin], MODEL, Policy(eagle=False))
    assert picture.geometry.eagle_tokens == 0
    with pytest.raises(InputError, match="Picture 2 of 2"):
        prepare_pictures([black_picture(), thin], MODEL, Policy())
