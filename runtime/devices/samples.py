"""Inputs of the vision components with which engines are tried: the bundle's own picture, and the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.runtime.core.vision_engine import Array, ComponentName, EngineInputs
from valley2_edge.runtime.media.images import ImageSource, load_picture
from valley2_edge.selftest import SELFTEST_PICTURE

_TILES = 2
"""Tiles that are taken of a picture; more show little that is new and take time."""

Feed = dict[str, NDArray[Any]]


def sample_inputs(bundle: Bundle, component: ComponentName, pictures: Sequence[ImageSource] = ()) -> list[Feed]:
    """Inputs of one component, one for each picture.

    Args:
        bundle: Whose self-test has a picture.
        component: "siglip", "projector" or "eagle".
        pictures: More of them, like those that questions will be about.

    Raises:
        InputError: A picture cannot be read.
        BundleError: A tower cannot be opened.
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
    return [{"features": native_tower(bundle, "siglip", {"tiles": some})} for some in tiles]


def native_tower(bundle: Bundle, component: ComponentName, inputs: EngineInputs) -> Array:
    """What the bundle's native tower makes of the inputs.

    Args:
        bundle: Whose tower it is.
        component: siglip, projector or eagle.
        inputs: By name, as graphs have them.

    Raises:
        BundleError: The tower cannot be opened.
    """
    file = getattr(bundle.manifest, component).files[0]
    stamp, architecture = bundle.stamp(file), bundle.manifest.architecture
    with Tower(bundle.path(file), component, architecture, stamp=stamp) as tower:
        values = next(values for name, values in inputs.items() if name != "positions")
        return tower.run(values, inputs.get("positions"))


def _some_tiles(picture: PreparedPicture) -> NDArray[np.float32]:
    """The whole picture's tile and the next."""
    return picture.tiles()[:_TILES]
