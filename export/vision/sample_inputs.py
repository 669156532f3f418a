"""Random inputs of the vision components, with which two ways to compute one are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.config import ModelConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.tensor_names import PICTURE_CHANNELS
from valley2_edge.runtime.core.vision_engine import ComponentName

TILE_COUNTS = (1, 2)
"""Numbers of tiles in the inputs."""
EAGLE_GRIDS = ((2, 2), (14, 22))
"""Rows and columns of patches in the inputs: less than one block of queries, and more than one."""
SEED = 20250905

Inputs = dict[str, NDArray[Any]]


def random_inputs(config: ModelConfig, component: ComponentName) -> Iterator[Inputs]:
    """Random inputs in the range that pictures have, of several shapes, the same on every machine.

    Args:
        config: The architecture.
        component: "siglip", "projector" or "eagle".

    Raises:
        ExportError: The model has no Eagle tower.
    """
    random, siglip = np.random.default_rng(SEED), config.siglip
    if component == "eagle":
        if config.eagle is None:
            raise ExportError("The model has no Eagle tower.")
        patch_size = PICTURE_CHANNELS * config.eagle.patch_size**2
        for rows, columns in EAGLE_GRIDS:
            patches = random.standard_normal((rows * columns, patch_size), dtype=np.float32)
            yield {"patches": patches, "positions": block_positions(rows, columns, config.eagle.spatial_merge_size)}
        return
    for tiles in TILE_COUNTS:
        if component == "siglip":
            picture = (tiles, PICTURE_CHANNELS, siglip.image_size, siglip.image_size)
            yield {"tiles": 2 * random.random(picture, dtype=np.float32) - 1}
        else:
            features = (tiles, siglip.patches_per_side**2, siglip.hidden_size)
            yield {"features": random.standard_normal(features, dtype=np.float32)}


def block_positions(rows: int, columns: int, merge: int) -> NDArray[np.int64]:
    """The place of each patch, block after block (docs/valley2.md, "Eagle branch").

    Args:
        rows: Rows of patches, a multiple of `merge`.
        columns: Columns of patches, a multiple of `merge`.
        merge: Rows and columns of the block of patches that becomes one token.

    Returns:
        (rows * columns, 2): row and column.
    """
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    blocks = grid.reshape(rows // merge, merge, columns // merge, merge, 2).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(blocks.reshape(-1, 2), dtype=np.int64)
