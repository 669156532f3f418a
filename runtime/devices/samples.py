"""Inputs of the vision graphs with which fp16's overflow is looked for: the bundle's own picture, and the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.media.images import ImageSource, load_picture
from valley2_edge.runtime.onnx.engine import OnnxEngine
from valley2_edge.runtime.onnx.providers import CPU_PROVIDER
from valley2_edge.selftest import SELFTEST_PICTURE

_TILES = 2
"""Tiles that are taken of a picture; more show little that is new and take time."""

Feed = dict[str, NDArray[Any]]


def sample_inputs(
    bundle: Bundle, component: ComponentName, pictures: Sequence[ImageSource] = (), threads: int = 0
) -> list[Feed]:
    """Inputs of one graph, one for each picture.

    Args:
        bundle: Whose self-test has a picture.
        component: "siglip", "projector" or "eagle".
        pictures: More of them, like those that questions will be about.
        threads: Number of CPU threads that run SigLIP for the projector's inputs; 0 takes all.

    Raises:
        InputError: A picture cannot be read.
        BundleError: A graph cannot be loaded.
    """
    architecture = bundle.manifest.architecture
    prepared = [
        prepare_pictures([load_picture(source)], architecture, Policy())[0]
        for source in (bundle.path(SELFTEST_PICTURE), *pictures)
    ]
    if component == "eagle":
        return [dict(zip(("patches", "positions"), picture.patches(), strict=True)) for picture in prepared]
    tiles = [_some_tiles(picture) for picture in prepared]
    if component == "siglip":
        return [{"tiles": some} for some in tiles]
    files = bundle.manifest.siglip.files
    with bundle.unchanged(*files):
        siglip = OnnxEngine(bundle.path(files[0]), "siglip", threads=threads, providers=[CPU_PROVIDER])
    try:
        return [{"features": siglip.run({"tiles": some}, None)} for some in tiles]
    finally:
        siglip.close()


def _some_tiles(picture: PreparedPicture) -> NDArray[np.float32]:
    """The whole picture's tile and the next."""
    return picture.tiles()[:_TILES]
