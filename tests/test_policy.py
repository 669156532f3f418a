"""How many Eagle tokens a picture may have, and which choices are refused."""

from __future__ import annotations

from typing import Any

import pytest

from valley2_edge.errors import InputError
from valley2_edge.policy import Policy


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
