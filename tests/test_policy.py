"""Which pictures are tiled, and how many Eagle tokens each may have."""

from __future__ import annotations

from typing import Any

import pytest

from valley2_edge.config import ModelConfig, PictureConfig
from valley2_edge.errors import InputError
from valley2_edge.policy import Policy

CANVASES = tuple((384 * i, 384 * j) for i in range(1, 4) for j in range(1, 4))
MODEL = ModelConfig(picture=PictureConfig(canvases=CANVASES))
TOKEN = 28 * 28


@pytest.mark.parametrize(
    ("preset", "single", "several"),
    [("fast", 256, 256), ("balanced", 729, 196), ("document", 1280, 1280), ("full", 16384, 16384)],
)
def test_presets(preset: Any, single: int, several: int) -> None:
    policy = Policy(eagle_preset=preset)
    assert policy.eagle_tokens(several=False) == (4, single)
    assert policy.eagle_tokens(several=True) == (4, several)


def test_balanced_is_the_default() -> None:
    assert Policy() == Policy(eagle_preset="balanced")


def test_caps_reach_the_geometry() -> None:
    options = Policy(eagle_max_tokens=100, eagle_min_tokens=16).geometry_options(MODEL, 1)
    assert (options.eagle_min_pixels, options.eagle_max_pixels) == (16 * TOKEN, 100 * TOKEN)


def test_frame_has_the_cap_of_several_even_alone() -> None:
    assert Policy().geometry_options(MODEL, 1, video=True).eagle_max_pixels == 196 * TOKEN
    assert Policy().geometry_options(MODEL, 1).eagle_max_pixels == 729 * TOKEN
    assert Policy().geometry_options(MODEL, 2).eagle_max_pixels == 196 * TOKEN


def test_given_cap_wins_over_the_preset() -> None:
    assert Policy(eagle_preset="full", eagle_max_tokens=64).eagle_tokens(several=True) == (4, 64)


def test_cap_below_the_usual_minimum_lowers_it() -> None:
    assert Policy(eagle_max_tokens=2).eagle_tokens(several=False) == (2, 2)


def test_given_minimum_lifts_the_cap_of_a_preset() -> None:
    assert Policy(eagle_min_tokens=300).eagle_tokens(several=True) == (300, 300)
    assert Policy(eagle_min_tokens=300).eagle_tokens(several=False) == (300, 729)


def test_reference_policies_have_the_references_caps() -> None:
    assert Policy.of_reference("hub").eagle_tokens(several=True) == (4, 16384)
    assert Policy.of_reference("repo").eagle_tokens(several=True) == (4, 1280)
    assert Policy.of_reference("repo").strict


def test_hub_tiles_only_a_lone_picture() -> None:
    assert Policy().geometry_options(MODEL, 1).tiled
    assert not Policy().geometry_options(MODEL, 2).tiled


def test_repo_tiles_every_picture() -> None:
    assert Policy(policy="repo").geometry_options(MODEL, 3).tiled


def test_hub_tiles_all_when_the_checkpoint_says_so() -> None:
    model = ModelConfig(picture=PictureConfig(canvases=CANVASES, only_crop_single_image=False))
    assert Policy().geometry_options(model, 3).tiled


def test_no_tiles_and_checkpoints_without_anyres() -> None:
    model = ModelConfig(picture=PictureConfig(anyres=False))
    assert not Policy(tiles=False, policy="repo").geometry_options(MODEL, 1).tiled
    assert not Policy().geometry_options(model, 1).tiled


def test_eagle_can_be_switched_off_and_the_tiles_are_still_stitched() -> None:
    options = Policy(eagle=False).geometry_options(MODEL, 1)
    assert not options.eagle
    assert options.unpad


def test_checkpoint_without_eagle() -> None:
    options = Policy().geometry_options(MODEL.model_copy(update={"eagle": None}), 1)
    assert not options.eagle
    assert not options.unpad


def test_only_strict_repo_leaves_pictures_out() -> None:
    limits = {(p, s): Policy(policy=p, strict=s).picture_limit() for p in ("hub", "repo") for s in (False, True)}
    assert limits == {("hub", False): None, ("hub", True): None, ("repo", False): None, ("repo", True): 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "git"}, "policy"),
        ({"eagle_preset": "best"}, "fast, balanced, document, full"),
        ({"eagle_max_tokens": 0}, "eagle_max_tokens must be between 1 and 16384"),
        ({"eagle_min_tokens": 16385}, "eagle_min_tokens must be between"),
        ({"eagle_max_tokens": 8, "eagle_min_tokens": 9}, "more than the cap of 8"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Policy(**options)
