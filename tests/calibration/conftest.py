"""Encoded samples of random rows, as no vision engine would have made them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from valley2_edge.calibration.encode import Branch, EncodedSample

MakeSample = Callable[..., EncodedSample]


@pytest.fixture
def make_sample() -> MakeSample:
    """Makes a sample from the rows of its prefix and of its branches, each with an answer of two tokens."""
    generator = np.random.default_rng(0)

    def make(prefix: int, branches: tuple[int, ...], hidden: int = 256) -> EncodedSample:
        rows = prefix + sum(branches)
        mask = np.zeros(rows, np.bool_)
        mask[: prefix // 2] = True
        return EncodedSample(
            "sample",
            generator.standard_normal((rows, hidden), np.float32),
            mask,
            prefix,
            tuple(Branch(tuple(range(count)), (7, 9)) for count in branches),
        )

    return make
