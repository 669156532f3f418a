"""What the core makes of a session's choices about pictures: how each picture becomes tiles and patches."""

from __future__ import annotations

import numpy as np

from valley2_edge.config import ModelConfig
from valley2_edge.geometry import GeometryOptions
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.binding import array_pointer, enum_numbers, new_struct, number_of
from valley2_edge.runtime.core.library import check, library

_PRESET_NUMBERS = enum_numbers("v2e_eagle_preset", "V2E_EAGLE_")


def geometry_options(policy: Policy, model: ModelConfig, picture_count: int, *, video: bool = False) -> GeometryOptions:
    """How each picture of a turn becomes tiles and patches.

    Args:
        policy: The session's choices.
        model: The architecture.
        picture_count: Pictures of the turn, frames included.
        video: The turn has frames of a video.
    """
    sides = np.array(model.picture.canvases, np.uint32).reshape(-1)
    chosen = new_struct(
        "v2e_picture_policy",
        repo=int(policy.policy == "repo"),
        no_tiles=int(not policy.tiles),
        no_eagle=int(not policy.eagle),
        eagle_preset=number_of("eagle_preset", policy.eagle_preset, _PRESET_NUMBERS),
        eagle_max_tokens=policy.eagle_max_tokens,
        eagle_min_tokens=policy.eagle_min_tokens,
    )
    architecture = new_struct(
        "v2e_picture_architecture",
        image_size=model.siglip.image_size,
        tokens_per_side=model.projector.tokens_per_side,
        no_eagle=int(model.eagle is None),
        no_anyres=int(not model.picture.anyres),
        crops_several=int(not model.picture.only_crop_single_image),
        max_vision_token=model.picture.max_vision_token,
        canvases=array_pointer(sides),
        canvas_count=len(model.picture.canvases),
    )
    found = new_struct("v2e_geometry_options")
    check(library().v2e_choose_geometry(chosen, architecture, picture_count, int(video), found))
    return GeometryOptions(
        tile_size=found.tile_size,
        tokens_per_side=found.tokens_per_side,
        tiled=not found.no_tiles,
        unpad=not found.no_unpad,
        max_vision_token=found.max_vision_token,
        eagle=not found.no_eagle,
        eagle_min_pixels=found.eagle_min_pixels,
        eagle_max_pixels=found.eagle_max_pixels,
        canvases=model.picture.canvases,
    )
