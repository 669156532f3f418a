"""From a turn's pictures to what the vision engines take in, one picture at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from valley2_edge.config import ModelConfig
from valley2_edge.errors import InputError
from valley2_edge.geometry import Geometry, GeometryOptions
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.picture_policy import geometry_options
from valley2_edge.runtime.core.pixels import make_patches, make_tiles, plan_picture

BLACK_PICTURE_SIDE = 3
"""Pixels: what the reference shows the model when there is no picture."""


@dataclass(frozen=True)
class PreparedPicture:
    """A picture and its plan; tiles and patches are made when they are asked for and kept by nobody here."""

    pixels: NDArray[np.uint8]
    """(height, width, 3) RGB."""
    geometry: Geometry
    options: GeometryOptions

    @property
    def tokens(self) -> int:
        """Positions that the picture takes in the context."""
        return self.geometry.siglip_tokens + self.geometry.eagle_tokens

    def tiles(self, cancel: CancelToken | None = None) -> NDArray[np.float32]:
        """SigLIP's input, (tile_count, 3, tile_size, tile_size); raises Cancelled once the token is set."""
        return make_tiles(self.pixels, self.geometry, self.options, cancel)

    def patches(self, cancel: CancelToken | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Eagle's input: patches (eagle_patches, 588) and positions (eagle_patches, 2); stops as `tiles` does."""
        return make_patches(self.pixels, self.geometry, self.options, cancel)


def prepare_pictures(
    pictures: Sequence[NDArray[np.uint8]], model: ModelConfig, policy: Policy, *, video: bool = False
) -> list[PreparedPicture]:
    """Plans the pictures of one turn.

    Args:
        pictures: Each (height, width, 3) uint8 RGB.
        model: The architecture.
        policy: The session's choices.
        video: The turn has frames of a video.

    Raises:
        InputError: A picture is too thin for the Eagle branch, or the caps leave no token; the text says which.
    """
    options = geometry_options(policy, model, len(pictures), video=video)
    prepared = []
    for index, pixels in enumerate(pictures):
        height, width, _ = pixels.shape
        try:
            geometry = plan_picture(width, height, options)
        except InputError as error:
            if len(pictures) == 1:
                raise
            raise InputError(f"Picture {index + 1} of {len(pictures)}: {error}") from error
        prepared.append(PreparedPicture(pixels, geometry, options))
    return prepared


def black_picture() -> NDArray[np.uint8]:
    """The picture that the reference puts into a question without one; (3, 3, 3), all 0."""
    return np.zeros((BLACK_PICTURE_SIDE, BLACK_PICTURE_SIDE, 3), np.uint8)
