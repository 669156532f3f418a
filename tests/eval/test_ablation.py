"""A model with a branch switched off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from valley2_edge import InputError, Valley2
from valley2_edge.eval.ablation import inquiry_of

ANSWER = [5, 6, 7]


@pytest.fixture(scope="module")
def model(fp32_bundle: Path) -> Iterator[Valley2]:
    with Valley2.load(fp32_bundle, threads=1, keep_vision=True) as loaded:
        yield loaded


def logits(model: Valley2, seed: int, width: int = 60, *, eagle: bool = True, tiles: bool = True) -> np.ndarray:
    picture = np.random.default_rng(seed).integers(0, 256, (40, width, 3), np.uint8)
    with inquiry_of(model, eagle=eagle, tiles=tiles) as inquiry:
        inquiry.show([picture])
        return inquiry.logits("What?", ANSWER)


def test_each_branch_alone_sees_the_picture(model: Valley2) -> None:
    for branches in ({"eagle": False}, {"tiles": False}, {}):
        assert not np.array_equal(logits(model, 1, **branches), logits(model, 2, **branches))


def test_without_both_branches_only_the_size_is_left(model: Valley2) -> None:
    blind = {"eagle": False, "tiles": False}
    np.testing.assert_array_equal(logits(model, 1, **blind), logits(model, 2, **blind))
    assert not np.array_equal(logits(model, 1, **blind), logits(model, 1, 120, **blind))


def test_bundle_without_eagle_has_none_to_switch_off(model: Valley2, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = model.engines.architecture.model_copy(update={"eagle": None})
    monkeypatch.setattr(model, "_engines", dataclasses.replace(model.engines, architecture=architecture))
    with pytest.raises(InputError, match="no Eagle branch"):
        inquiry_of(model, eagle=False)
