"""How a picture becomes tiles, patches and tokens, as plain data: the options, and the plan that the core makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GeometryOptions:
    """How pictures become tiles, patches and tokens; the fields are those of v2e_geometry_options."""

    tile_size: int = 384
    """Side of a SigLIP tile, pixels."""
    tokens_per_side: int = 14
    """Side of a tile's token grid after the projector."""
    tiled: bool = True
    """Make a global view and tiles; otherwise one plain resize."""
    unpad: bool = True
    """Stitch the tiles and drop the padding, as Eagle variants do; otherwise the tiles one by one."""
    max_vision_token: int = 100_000
    """Cap on one picture's SigLIP tokens."""
    eagle: bool = True
    eagle_min_pixels: int = 4 * 28 * 28
    """Fewest pixels of a picture after the second Eagle resize; 28 * 28 pixels are one token."""
    eagle_max_pixels: int = 16384 * 28 * 28
    canvases: Sequence[tuple[int, int]] = ()
    """Candidate canvases (width, height) in pixels, in order of preference; none: 1 x 1 to 3 x 3 tiles."""


@dataclass(frozen=True)
class Geometry:
    """The plan of one picture; the fields are those of v2e_geometry, in pixels unless they say tokens."""

    width: int
    height: int
    grid_columns: int
    """Tiles of the chosen canvas from left to right; 0 when the picture is not tiled."""
    grid_rows: int
    resized_width: int
    """Width of the picture on the canvas."""
    resized_height: int
    paste_x: int
    paste_y: int
    tile_count: int
    """Number of tiles, the global view included."""
    kept_x: int
    """Where the un-padded part of the stitched map begins, tokens."""
    kept_y: int
    kept_columns: int
    kept_rows: int
    pooled_columns: int
    """Tokens after max_vision_token: of the kept map, or of every tile without unpad."""
    pooled_rows: int
    siglip_tokens: int
    """SigLIP tokens of the whole picture, global view included."""
    fetch_width: int
    """Width after the first Eagle resize; 0 without the Eagle branch."""
    fetch_height: int
    eagle_width: int
    """Width after the second Eagle resize."""
    eagle_height: int
    eagle_patches: int
    eagle_tokens: int
