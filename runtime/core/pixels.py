"""Pictures in numpy arrays, through the native core: geometry, resize, tiles, patches and stitching."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError
from valley2_edge.geometry import Geometry, GeometryOptions
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.binding import EventBridge, array_pointer, new_struct, struct_values
from valley2_edge.runtime.core.library import check, library

PATCH_SIZE = 14
"""Side of an Eagle patch, pixels."""

_LARGEST_FIELD = 2**32 - 1
_LARGEST_PIXEL_LIMIT = 2**64 - 1


def plan_picture(width: int, height: int, options: GeometryOptions) -> Geometry:
    """Plans one picture; pure arithmetic, no pixels.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        options: How to tile and resize.

    Raises:
        InputError: a side is 0, the picture is thinner than 1 : 200 and has an Eagle branch, the options contradict
            each other, or max_vision_token leaves no token.

    Source: docs/valley2.md, "Pictures": LLaVA-NeXT's canvas choice and Qwen2-VL's smart_resize.
    """
    _check_range("width", width, _LARGEST_FIELD)
    _check_range("height", height, _LARGEST_FIELD)
    plan = new_struct("v2e_geometry")
    check(library().v2e_plan_picture(width, height, geometry_options_struct(options), plan))
    return Geometry(**struct_values(plan, [field.name for field in fields(Geometry)]))


def resize(rgb: NDArray[np.uint8], new_width: int, new_height: int) -> NDArray[np.uint8]:
    """Resizes a picture as Pillow's Image.resize(..., BICUBIC) does, bit for bit.

    Args:
        rgb: (height, width, 3) uint8.
        new_width: Width to resize to, in pixels.
        new_height: Height to resize to, in pixels.

    Returns:
        (new_height, new_width, 3) uint8.

    Raises:
        InputError: the array is no picture, or a side is not positive.
    """
    picture = picture_array(rgb)
    height, width, _ = picture.shape
    _check_range("new_width", new_width, 2**31 - 1)
    _check_range("new_height", new_height, 2**31 - 1)
    resized = np.empty((new_height, new_width, 3), np.uint8)  # (new_height, new_width, 3)
    check(library().v2e_resize(array_pointer(picture), width, height, array_pointer(resized), new_width, new_height))
    return resized


def make_tiles(
    rgb: NDArray[np.uint8], geometry: Geometry, options: GeometryOptions, cancel: CancelToken | None = None
) -> NDArray[np.float32]:
    """Makes SigLIP's input from a picture.

    Args:
        rgb: (height, width, 3) uint8, of the size that geometry was planned for.
        geometry: What `plan_picture` gave for the same options.
        options: How to tile.
        cancel: Stops the work within some rows of pixels, as Ctrl-C does.

    Returns:
        (tile_count, 3, tile_size, tile_size) float32 in [-1, 1]: the global view, then the canvas's tiles row by row.

    Raises:
        Cancelled: the token was set.
        InputError: the array, the geometry and the options do not belong together.
    """
    picture = picture_array(rgb, geometry)
    # (tile_count, 3, tile_size, tile_size)
    tiles = np.empty((geometry.tile_count, 3, options.tile_size, options.tile_size), np.float32)
    bridge = _bridge(cancel)
    options_struct = geometry_options_struct(options, bridge)
    bridge.finish(
        library().v2e_make_tiles(array_pointer(picture), _struct(geometry), options_struct, array_pointer(tiles))
    )
    return tiles


def make_patches(
    rgb: NDArray[np.uint8], geometry: Geometry, options: GeometryOptions, cancel: CancelToken | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Makes Eagle's input from a picture.

    Args:
        rgb: (height, width, 3) uint8, of the size that geometry was planned for.
        geometry: What `plan_picture` gave for the same options.
        options: How to resize.
        cancel: Stops the work within some rows of pixels, as Ctrl-C does.

    Returns:
        Patches (eagle_patches, 588) float32, each [channel][y][x], in the order of the 2 x 2 blocks that make one
        token; and positions (eagle_patches, 2) int64, row and column in the grid of patches.

    Raises:
        Cancelled: the token was set.
        InputError: the options have no Eagle branch, or the array, the geometry and the options do not belong together.
    """
    picture = picture_array(rgb, geometry)
    patches = np.empty((geometry.eagle_patches, 3 * PATCH_SIZE * PATCH_SIZE), np.float32)  # (eagle_patches, 588)
    positions = np.empty((geometry.eagle_patches, 2), np.int64)  # (eagle_patches, 2)
    bridge = _bridge(cancel)
    options_struct = geometry_options_struct(options, bridge)
    status = library().v2e_make_patches(
        array_pointer(picture), _struct(geometry), options_struct, array_pointer(patches), array_pointer(positions)
    )
    bridge.finish(status)
    return patches, positions


def stitch_tiles(tile_tokens: NDArray[np.float32], geometry: Geometry, options: GeometryOptions) -> NDArray[np.float32]:
    """Puts the projected tokens of a picture's tiles together.

    Args:
        tile_tokens: (tile_count, tokens_per_side^2, channels) float32, tiles in the order of `make_tiles`.
        geometry: What `plan_picture` gave for the same options.
        options: How to stitch.

    Returns:
        (siglip_tokens, channels) float32. With unpad: the global view, then the stitched tiles without padding, row by
        row, pooled to max_vision_token. Without: the tiles in order, each pooled to its share.

    Raises:
        InputError: the array, the geometry and the options do not belong together.
    """
    expected = (geometry.tile_count, options.tokens_per_side**2)
    if tile_tokens.ndim != 3 or tile_tokens.shape[:2] != expected or tile_tokens.dtype != np.float32:
        raise InputError(
            f"Tile tokens must be float32 of shape ({expected[0]}, {expected[1]}, channels), "
            f"not {tile_tokens.dtype} of shape {tile_tokens.shape}."
        )
    dense = np.ascontiguousarray(tile_tokens)  # (tile_count, tokens_per_side^2, channels)
    channels = dense.shape[2]
    tokens = np.empty((geometry.siglip_tokens, channels), np.float32)  # (siglip_tokens, channels)
    plan, options_struct = _struct(geometry), geometry_options_struct(options)
    check(library().v2e_stitch_tiles(array_pointer(dense), plan, options_struct, channels, array_pointer(tokens)))
    return tokens


def geometry_options_struct(options: GeometryOptions, bridge: EventBridge | None = None) -> Any:
    """The options as v2e_geometry_options.

    Args:
        options: How to tile and resize.
        bridge: Hears of the work on pixels.

    Raises:
        InputError: An option is out of range.
    """
    _check_range("max_vision_token", options.max_vision_token, _LARGEST_FIELD)
    _check_range("tile_size", options.tile_size, _LARGEST_FIELD)
    _check_range("tokens_per_side", options.tokens_per_side, _LARGEST_FIELD)
    _check_range("eagle_min_pixels", options.eagle_min_pixels, _LARGEST_PIXEL_LIMIT)
    _check_range("eagle_max_pixels", options.eagle_max_pixels, _LARGEST_PIXEL_LIMIT)
    sides = [side for canvas in options.canvases for side in canvas]
    if len(sides) != 2 * len(options.canvases):
        raise InputError("Each canvas must be a pair of width and height.")
    for side in sides:
        _check_range("A canvas's side", side, _LARGEST_FIELD)
    return new_struct(
        "v2e_geometry_options",
        tile_size=options.tile_size,
        tokens_per_side=options.tokens_per_side,
        no_tiles=not options.tiled,
        no_unpad=not options.unpad,
        max_vision_token=options.max_vision_token,
        no_eagle=not options.eagle,
        eagle_min_pixels=options.eagle_min_pixels,
        eagle_max_pixels=options.eagle_max_pixels,
        canvases=array_pointer(np.array(sides, np.uint32)),
        canvas_count=len(options.canvases),
        callback=None if bridge is None else bridge.function,
    )


def _check_range(name: str, value: int, largest: int, smallest: int = 1) -> None:
    # 0 would ask the C side for its default.
    if not smallest <= value <= largest:
        raise InputError(f"{name} must be between {smallest} and {largest}, not {value}.")


def _bridge(cancel: CancelToken | None) -> EventBridge:
    """What the core asks between some rows of pixels; it is there without a token, too, so that Ctrl-C is heard."""
    return EventBridge(lambda _event: cancel is None or not cancel.cancelled)


def _struct(geometry: Geometry) -> Any:
    return new_struct("v2e_geometry", **{field.name: getattr(geometry, field.name) for field in fields(geometry)})


def picture_array(rgb: NDArray[np.uint8], geometry: Geometry | None = None) -> NDArray[np.uint8]:
    """A picture as the core takes it, dense.

    Args:
        rgb: (height, width, 3) uint8.
        geometry: What was planned for it; None: nothing was.

    Raises:
        InputError: the array is no picture, or not of the size that was planned for.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise InputError(f"A picture must be uint8 of shape (height, width, 3), not {rgb.dtype} of shape {rgb.shape}.")
    if geometry is not None and rgb.shape[:2] != (geometry.height, geometry.width):
        raise InputError(
            f"The geometry was planned for {geometry.width} x {geometry.height} pixels, "
            f"but the picture has {rgb.shape[1]} x {rgb.shape[0]}."
        )
    return np.ascontiguousarray(rgb)
