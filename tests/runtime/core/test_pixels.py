"""Pixels: Pillow's resize, the towers' inputs against the goldens, and stitching against torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from valley2_edge.errors import InputError
from valley2_edge.geometry import Geometry, GeometryOptions
from valley2_edge.runtime.core.pixels import make_patches, make_tiles, plan_picture, resize, stitch_tiles

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = ["square448", "text_only", "tiny30x20"]
POLICIES = {"pre": 1280, "pre_hf": 16384}
"""Folder of a policy's goldens, and its cap of Eagle tokens."""

# Before version 13 the horizontal pass was always the first; the goldens were made with 13.
needs_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 resizes in another order"
)


def random_picture(width: int, height: int, *, seed: int = 0, black_and_white: bool = False) -> NDArray[np.uint8]:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(picture > 127, 255, 0).astype(np.uint8) if black_and_white else picture


def pillow_resize(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def golden_pictures(case: str) -> list[NDArray[np.uint8]]:
    with np.load(GOLDEN / "inputs" / f"{case}.npz") as arrays:
        pictures = [arrays[name] for name in sorted(arrays.files)]
    return pictures or [np.zeros((3, 3, 3), np.uint8)]  # the reference's black picture of a question without one


def golden_input(folder: str, case: str, name: str) -> NDArray[np.uint8]:
    """Arrays that the hub policy has in common with the repo policy are kept only once."""
    own = load_file(GOLDEN / folder / f"{case}.safetensors")
    return own[name] if name in own else load_file(GOLDEN / "pre" / f"{case}.safetensors")[name]


# ---- resize


@needs_pillow_13
@pytest.mark.parametrize("black_and_white", [False, True])
def test_resize_equals_pillow_on_random_sizes(black_and_white: bool) -> None:
    generator = np.random.default_rng(1)
    for index in range(300):
        width, height, new_width, new_height = (int(side) for side in np.exp(generator.uniform(0, 5.7, 4)))
        if index % 5 == 0:
            new_width = width
        if index % 7 == 0:
            new_height = height
        # Black and white overshoots most, so that clamping is seen.
        picture = random_picture(width, height, seed=index, black_and_white=black_and_white)
        expected = pillow_resize(picture, new_width, new_height)
        resized = resize(picture, new_width, new_height)
        np.testing.assert_array_equal(resized, expected, f"{width} x {height} to {new_width} x {new_height}")


@needs_pillow_13
@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((1, 1), (384, 384)),
        ((384, 384), (1, 1)),
        ((1, 300), (7, 20)),
        ((300, 1), (20, 7)),
        ((640, 480), (384, 384)),
        ((640, 480), (768, 576)),
        ((1500, 1000), (576, 384)),
        ((1500, 1000), (1500, 999)),
        ((1500, 1000), (1499, 1000)),
        ((30, 2000), (20, 1980)),  # twice as many rows as columns go: horizontal first
        ((30, 2000), (20, 1979)),  # one more: vertical first
        ((3, 5000), (5000, 3)),
        ((5000, 3), (3, 5000)),
    ],
)
def test_resize_equals_pillow_at_the_edges(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    picture = random_picture(*size)
    np.testing.assert_array_equal(resize(picture, *new_size), pillow_resize(picture, *new_size))


def test_resize_to_the_same_size_is_a_copy() -> None:
    picture = random_picture(13, 17)
    resized = resize(picture, 13, 17)
    np.testing.assert_array_equal(resized, picture)
    assert not np.shares_memory(resized, picture)


def test_resize_accepts_views_that_are_not_dense() -> None:
    picture = random_picture(40, 30)
    np.testing.assert_array_equal(resize(picture[::-1, ::2], 11, 9), resize(picture[::-1, ::2].copy(), 11, 9))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(array: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="picture must be uint8"):
        resize(array, 2, 2)


@pytest.mark.parametrize(("width", "height"), [(0, 2), (2, -1), (2**31, 1)])
def test_resize_to_an_impossible_side_is_refused(width: int, height: int) -> None:
    with pytest.raises(InputError, match="new_"):
        resize(random_picture(4, 4), width, height)


# ---- tiles and patches


@pytest.mark.parametrize("folder", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_tiles_equal_the_reference_bit_for_bit(folder: str, case: str) -> None:
    pictures = golden_pictures(case)
    options = GeometryOptions(tiled=folder == "pre" or len(pictures) == 1)
    made = [make_tiles(p, plan_picture(p.shape[1], p.shape[0], options), options) for p in pictures]
    values = golden_input(folder, case, "tiles_u8")
    expected = ((values * 0.00392156862745098).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
    assert [len(tiles) for tiles in made] == golden_input(folder, case, "tiles_per_image").tolist()
    np.testing.assert_array_equal(np.concatenate(made), expected)


@pytest.mark.parametrize("folder", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_patches_equal_the_reference_bit_for_bit(folder: str, case: str) -> None:
    options = GeometryOptions(eagle_max_pixels=POLICIES[folder] * 28 * 28)
    plans = [(p, plan_picture(p.shape[1], p.shape[0], options)) for p in golden_pictures(case)]
    made = np.concatenate([make_patches(picture, plan, options)[0] for picture, plan in plans])  # (P, 588)
    values = golden_input(folder, case, "eagle_patches_u8")  # (P, 3, 14, 14)
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32).reshape(3, 1, 1)
    deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32).reshape(3, 1, 1)
    expected = ((values * (1 / 255)).astype(np.float32) - mean) / deviation
    np.testing.assert_array_equal(made.reshape(values.shape), expected)


@pytest.mark.parametrize("case", CASES)
def test_float_buffers_have_the_reference_hashes(case: str) -> None:
    hashes = json.loads((GOLDEN / "manifest.json").read_text())["cases"]["eagle_ovis"][case]["pre_sha256"]
    options = GeometryOptions(eagle_max_pixels=1280 * 28 * 28)
    plans = [(p, plan_picture(p.shape[1], p.shape[0], options)) for p in golden_pictures(case)]
    tiles = np.concatenate([make_tiles(picture, plan, options) for picture, plan in plans])
    patches = np.concatenate([make_patches(picture, plan, options)[0] for picture, plan in plans])
    # The reference repeats every patch for its two temporal slices: (P, 3, 2, 14, 14).
    repeated = np.repeat(patches.reshape(-1, 3, 1, 14, 14), 2, axis=2)
    assert hashlib.sha256(tiles.tobytes()).hexdigest() == hashes["tiles_f32"]
    assert hashlib.sha256(repeated.tobytes()).hexdigest() == hashes["pixel_values_f32"]


def test_tiles_are_the_global_view_and_then_the_canvas_row_by_row() -> None:
    picture = random_picture(700, 300)
    options = GeometryOptions(eagle=False)
    plan = plan_picture(700, 300, options)
    assert (plan.grid_columns, plan.grid_rows) == (2, 1)
    canvas = np.zeros((384, 768, 3), np.uint8)
    fitted = resize(picture, plan.resized_width, plan.resized_height)
    canvas[plan.paste_y : plan.paste_y + plan.resized_height, plan.paste_x : plan.paste_x + plan.resized_width] = fitted
    expected = np.stack([resize(picture, 384, 384), canvas[:, :384], canvas[:, 384:]]).transpose(0, 3, 1, 2)
    tiles = make_tiles(picture, plan, options)
    np.testing.assert_array_equal(np.rint((tiles + 1) * 127.5).astype(np.uint8), expected)


def test_untiled_picture_is_one_plain_resize() -> None:
    picture = random_picture(50, 400)
    options = GeometryOptions(tiled=False, eagle=False)
    tiles = make_tiles(picture, plan_picture(50, 400, options), options)
    expected = resize(picture, 384, 384).transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(np.rint((tiles + 1) * 127.5).astype(np.uint8), expected)


def test_patches_and_positions_come_in_blocks_of_two_by_two() -> None:
    options = GeometryOptions()
    plan = plan_picture(84, 56, options)  # 6 x 4 patches, no resize
    picture = random_picture(84, 56)
    patches, positions = make_patches(picture, plan, options)
    expected = [
        (2 * block_row + row, 2 * block_column + column)
        for block_row in range(2)
        for block_column in range(3)
        for row in range(2)
        for column in range(2)
    ]
    assert [tuple(position) for position in positions.tolist()] == expected
    first_channel = patches.reshape(-1, 3, 14, 14)[:, 0] * np.float32(0.26862954) + np.float32(0.48145466)
    for patch, (row, column) in zip(first_channel, expected, strict=True):
        pixels = picture[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14, 0]
        np.testing.assert_array_equal(np.rint(patch * 255).astype(np.uint8), pixels)


def test_large_picture_is_resized_twice_for_eagle() -> None:
    picture = random_picture(4000, 3500)
    options = GeometryOptions(eagle_max_pixels=16 * 28 * 28)
    plan = plan_picture(4000, 3500, options)
    assert (plan.fetch_width, plan.fetch_height) != (plan.width, plan.height)
    twice = resize(resize(picture, plan.fetch_width, plan.fetch_height), plan.eagle_width, plan.eagle_height)
    patches, positions = make_patches(picture, plan, options)
    last = (patches[-1].reshape(3, 14, 14)[2] * np.float32(0.27577711) + np.float32(0.40821073)) * 255
    np.testing.assert_array_equal(np.rint(last).astype(np.uint8), twice[-14:, -14:, 2])
    assert positions[-1].tolist() == [plan.eagle_height // 14 - 1, plan.eagle_width // 14 - 1]


def test_geometry_of_other_options_is_refused() -> None:
    picture = random_picture(500, 300)
    options = GeometryOptions()
    plan = plan_picture(500, 300, options)
    with pytest.raises(InputError, match="geometry"):
        make_tiles(picture, plan, replace(options, tile_size=280))
    with pytest.raises(InputError, match="geometry"):
        make_patches(picture, plan, replace(options, eagle_max_pixels=16 * 28 * 28))
    with pytest.raises(InputError, match="geometry"):
        make_tiles(picture, replace(plan, tile_count=1), options)


def test_geometry_of_another_picture_is_refused() -> None:
    options = GeometryOptions()
    with pytest.raises(InputError, match="planned for 500 x 300 pixels"):
        make_tiles(random_picture(300, 500), plan_picture(500, 300, options), options)


def test_patches_without_an_eagle_branch_are_refused() -> None:
    options = GeometryOptions(eagle=False)
    with pytest.raises(InputError, match="Eagle"):
        make_patches(random_picture(50, 50), plan_picture(50, 50, options), options)


# ---- stitching


def stitch_with_torch(tile_tokens: NDArray[np.float32], plan: Geometry, options: GeometryOptions) -> torch.Tensor:
    side, channels = options.tokens_per_side, tile_tokens.shape[2]
    tokens = torch.from_numpy(tile_tokens)
    if not options.unpad:
        maps = tokens.reshape(-1, side, side, channels).permute(0, 3, 1, 2)  # (T, C, side, side)
        share = int((options.max_vision_token / len(tokens)) ** 0.5)
        if len(tokens) * side * side > options.max_vision_token:
            maps = torch.nn.AdaptiveAvgPool2d(share)(maps)
        return maps.permute(0, 2, 3, 1).reshape(-1, channels)
    view, tiles = tokens[0], tokens[1:]
    if len(tiles) == 0:
        return view
    stitched = tiles.reshape(plan.grid_rows, plan.grid_columns, side, side, channels)
    stitched = stitched.permute(4, 0, 2, 1, 3).reshape(channels, plan.grid_rows * side, plan.grid_columns * side)
    _, rows, columns = stitched.shape
    if plan.width / plan.height > columns / rows:
        padding = (rows - int(plan.height * (columns / plan.width))) // 2
        stitched = stitched[:, padding : rows - padding, :]
    else:
        padding = (columns - int(plan.width * (rows / plan.height))) // 2
        stitched = stitched[:, :, padding : columns - padding]
    _, rows, columns = stitched.shape
    cap = options.max_vision_token - side * side
    if rows * columns > cap:
        ratio = rows / columns
        stitched = torch.nn.AdaptiveAvgPool2d((int((cap / ratio) ** 0.5 * ratio), int((cap / ratio) ** 0.5)))(stitched)
    return torch.cat([view, stitched.flatten(1).T])


@pytest.mark.parametrize(
    "options",
    [
        GeometryOptions(eagle=False),
        GeometryOptions(eagle=False, tokens_per_side=9),
        GeometryOptions(eagle=False, max_vision_token=600),
        GeometryOptions(eagle=False, max_vision_token=321),
        GeometryOptions(eagle=False, tiled=False),
        GeometryOptions(eagle=False, unpad=False),
        GeometryOptions(eagle=False, unpad=False, max_vision_token=500),
        GeometryOptions(eagle=False, unpad=False, tiled=False, max_vision_token=100),
    ],
)
@pytest.mark.parametrize("size", [(448, 448), (1280, 720), (433, 701), (1536, 384), (200, 1000), (1400, 30), (1, 1)])
def test_stitching_equals_torch(options: GeometryOptions, size: tuple[int, int]) -> None:
    plan = plan_picture(*size, options)
    shape = (plan.tile_count, options.tokens_per_side**2, 20)
    tile_tokens = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    stitched = stitch_tiles(tile_tokens, plan, options)
    expected = stitch_with_torch(tile_tokens, plan, options).numpy()
    assert stitched.shape == (plan.siglip_tokens, 20)
    np.testing.assert_allclose(stitched, expected, rtol=1e-6, atol=1e-6)


def test_stitching_without_a_cap_only_moves_tokens() -> None:
    options = GeometryOptions(eagle=False)
    plan = plan_picture(433, 701, options)
    tile_tokens = np.random.default_rng(4).standard_normal((plan.tile_count, 196, 8), dtype=np.float32)
    expected = stitch_with_torch(tile_tokens, plan, options).numpy()
    np.testing.assert_array_equal(stitch_tiles(tile_tokens, plan, options), expected)


@pytest.mark.parametrize("shape", [(4, 196, 8), (5, 195, 8), (5, 196), (5, 196, 0)])
def test_tile_tokens_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    options = GeometryOptions()
    plan = plan_picture(448, 448, options)
    assert plan.tile_count == 5
    with pytest.raises(InputError):
        stitch_tiles(np.zeros(shape, np.float32), plan, options)


def test_tile_tokens_of_another_type_are_refused() -> None:
    options = GeometryOptions()
    plan = plan_picture(448, 448, options)
    with pytest.raises(InputError, match="float32"):
        stitch_tiles(np.zeros((5, 196, 8), np.float64), plan, options)
