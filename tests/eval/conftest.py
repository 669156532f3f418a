"""The tiny bundles, loaded once for each file of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from valley2_edge import Valley2


@pytest.fixture(scope="module")
def fp32(fp32_bundle: Path) -> Iterator[Valley2]:
    with Valley2.load(fp32_bundle, threads=1, keep_vision=True) as model:
        yield model


@pytest.fixture(scope="module")
def int4(int4_bundle: Path) -> Iterator[Valley2]:
    with Valley2.load(int4_bundle, threads=1, keep_vision=True) as model:
        yield model
