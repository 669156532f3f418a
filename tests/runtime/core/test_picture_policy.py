"""Which pictures are tiled, and that the core knows the caps of the options."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from valley2_edge.config import ModelConfig, PictureConfig
from valley2_edge.options import EaglePreset
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.picture_policy import geometry_options

CANVASES = tuple((384 * i, 384 * j) for i in range(1, 4) for j in range(1, 4))
MODEL = ModelConfig(picture=PictureConfig(canvases=CANVASES))
TOKEN = 28 * 28


@pytest.mark.parametrize("preset", get_args(EaglePreset))
@pytest.mark.parametrize("count", [1, 2])
def test_core_has_the_caps_that_options_are_checked_with(preset: EaglePreset, count: int) -> None:
    for most, least in product((None, 1, 3, 700, 16384), (None, 1, 700, 1000)):
        if most is not None and least is not None and least > most:
            continue
        policy = Policy(eagle_preset=preset, eagle_max_tokens=most, eagle_min_tokens=least)
        options = geometry_options(policy, MODEL, count)
        low, high = policy.eagle_tokens(several=count > 1)
        assert (options.eagle_min_pixels, options.eagle_max_pixels) == (low * TOKEN, high * TOKEN)


def test_the_rest_is_that_of_the_architecture() -> None:
    options = geometry_options(Policy(), MODEL, 1)
    assert (options.tile_size, options.tokens_per_side, options.canvases) == (384, 14, CANVASES)
    assert options.max_vision_token == MODEL.picture.max_vision_token
    assert geometry_options(Policy(), ModelConfig(), 1).canvases == ()


def test_caps_reach_the_geometry() -> None:
    options = geometry_options(Policy(eagle_max_tokens=100, eagle_min_tokens=16), MODEL, 1)
    assert (options.eagle_min_pixels, options.eagle_max_pixels) == (16 * TOKEN, 100 * TOKEN)


def test_frame_has_the_cap_of_several_even_alone() -> None:
    assert geometry_options(Policy(), MODEL, 1, video=True).eagle_max_pixels == 196 * TOKEN
    assert geometry_options(Policy(), MODEL, 1).eagle_max_pixels == 729 * TOKEN
    assert geometry_options(Policy(), MODEL, 2).eagle_max_pixels == 196 * TOKEN


def test_hub_tiles_only_a_lone_picture() -> None:
    assert geometry_options(Policy(), MODEL, 1).tiled
    assert not geometry_options(Policy(), MODEL, 2).tiled


def test_repo_tiles_every_picture() -> None:
    assert geometry_options(Policy(policy="repo"), MODEL, 3).tiled


def test_hub_tiles_all_when_the_checkpoint_says_so() -> None:
    model = ModelConfig(picture=PictureConfig(canvases=CANVASES, only_crop_single_image=False))
    assert geometry_options(Policy(), model, 3).tiled


def test_no_tiles_and_checkpoints_without_anyres() -> None:
    model = ModelConfig(picture=PictureConfig(anyres=False))
    assert not geometry_options(Policy(tiles=False, policy="repo"), MODEL, 1).tiled
    assert not geometry_options(Policy(), model, 1).tiled


def test_eagle_can_be_switched_off_and_the_tiles_are_still_stitched() -> None:
    options = geometry_options(Policy(eagle=False), MODEL, 1)
    assert not options.eagle
    assert options.unpad


def test_checkpoint_without_eagle() -> None:
    options = geometry_options(Policy(), MODEL.model_copy(update={"eagle": None}), 1)
    assert not options.eagle
    assert not options.unpad
