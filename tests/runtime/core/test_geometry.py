"""The plan of a picture: canvas, un-padding, token caps and Eagle sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from valley2_edge.errors import InputError
from valley2_edge.geometry import Geometry, GeometryOptions
from valley2_edge.runtime.core.pixels import plan_picture

GOLDEN = Path(__file__).parents[2] / "golden"
TABLE: list[dict[str, Any]] = json.loads((GOLDEN / "geometry.json").read_text())
TOKEN_PIXELS = 28 * 28


def test_golden_table_is_whole() -> None:
    assert len(TABLE) == 350


@pytest.mark.parametrize("tokens_per_side", [14, 9])
@pytest.mark.parametrize("eagle_max_tokens", [1280, 16384])
def test_plan_equals_reference_for_every_size(tokens_per_side: int, eagle_max_tokens: int) -> None:
    options = GeometryOptions(tokens_per_side=tokens_per_side, eagle_max_pixels=eagle_max_tokens * TOKEN_PIXELS)
    for row in TABLE:
        plan = plan_picture(row["w"], row["h"], options)
        assert [plan.grid_columns, plan.grid_rows] == [row["grid_w"], row["grid_h"]]
        assert plan.tile_count == 1 + row["grid_w"] * row["grid_h"]
        assert [plan.resized_width, plan.resized_height] == row["resize_wh"]
        assert [plan.paste_x, plan.paste_y] == row["paste_xy"]

        kept = row[f"unpad{tokens_per_side}"]
        assert [plan.kept_columns, plan.kept_rows] == [kept["cols"], kept["rows"]]
        if kept["cols"] and kept["rows"]:
            assert [plan.kept_x, plan.kept_y] == [kept["x0"], kept["y0"]]
        assert plan.siglip_tokens == kept["siglip_tokens"]

        eagle = row[f"eagle{eagle_max_tokens}"]
        assert [plan.fetch_width, plan.fetch_height] == eagle["fetch_wh"]
        assert [plan.eagle_width, plan.eagle_height] == eagle["final_wh"]
        assert [1, plan.eagle_height // 14, plan.eagle_width // 14] == eagle["grid_thw"]
        assert plan.eagle_tokens == eagle["tokens"]
        assert plan.eagle_patches == 4 * eagle["tokens"]


def test_thin_picture_keeps_no_tile_tokens() -> None:
    plan = plan_picture(1400, 30, GeometryOptions())
    assert plan.kept_rows == 0
    assert plan.pooled_rows == 0
    assert plan.siglip_tokens == 14 * 14  # the global view alone


def test_untiled_picture_has_the_global_view_alone() -> None:
    plan = plan_picture(640, 480, GeometryOptions(tiled=False))
    assert (plan.tile_count, plan.grid_columns, plan.grid_rows) == (1, 0, 0)
    assert (plan.kept_columns, plan.kept_rows) == (0, 0)
    assert plan.siglip_tokens == 196


def test_without_unpad_every_tile_keeps_its_tokens() -> None:
    plan = plan_picture(1280, 720, GeometryOptions(unpad=False, eagle=False))
    assert plan.tile_count == 7
    assert plan.siglip_tokens == 7 * 196
    assert (plan.kept_columns, plan.kept_rows) == (0, 0)


def test_without_eagle_no_size_of_it_is_planned() -> None:
    plan = plan_picture(1280, 720, GeometryOptions(eagle=False))
    assert (plan.fetch_width, plan.fetch_height, plan.eagle_width, plan.eagle_height) == (0, 0, 0, 0)
    assert (plan.eagle_patches, plan.eagle_tokens) == (0, 0)


@pytest.mark.parametrize(("width", "height"), [(448, 448), (1536, 384), (300, 500), (433, 701)])
@pytest.mark.parametrize("max_vision_token", [250, 400, 600, 1000])
def test_cap_pools_the_kept_map_to_its_own_shape(width: int, height: int, max_vision_token: int) -> None:
    plan = plan_picture(width, height, GeometryOptions(max_vision_token=max_vision_token))
    cap = max_vision_token - 196
    rows, columns = plan.kept_rows, plan.kept_columns
    if rows * columns > cap:
        ratio = rows / columns
        rows, columns = int((cap / ratio) ** 0.5 * ratio), int((cap / ratio) ** 0.5)
    assert (plan.pooled_rows, plan.pooled_columns) == (rows, columns)
    assert plan.siglip_tokens == 196 + rows * columns <= max_vision_token


@pytest.mark.parametrize("max_vision_token", [100, 600, 979, 980, 981])
def test_cap_without_unpad_gives_every_tile_an_equal_square(max_vision_token: int) -> None:
    plan = plan_picture(448, 448, GeometryOptions(unpad=False, eagle=False, max_vision_token=max_vision_token))
    side = 14 if max_vision_token >= 5 * 196 else math.isqrt(max_vision_token // 5)
    assert (plan.pooled_columns, plan.pooled_rows) == (side, side)
    assert plan.siglip_tokens == 5 * side * side <= max_vision_token


@pytest.mark.parametrize("max_vision_token", [1, 195, 196])
def test_cap_that_the_global_view_uses_up_is_refused(max_vision_token: int) -> None:
    with pytest.raises(InputError, match="max_vision_token"):
        plan_picture(448, 448, GeometryOptions(max_vision_token=max_vision_token))


def test_cap_below_one_row_of_the_kept_map_is_refused() -> None:
    with pytest.raises(InputError, match="row"):
        plan_picture(2000, 200, GeometryOptions(max_vision_token=198))


def test_cap_below_one_token_for_each_tile_is_refused() -> None:
    with pytest.raises(InputError, match="5 tiles"):
        plan_picture(448, 448, GeometryOptions(unpad=False, eagle=False, max_vision_token=4))


@pytest.mark.parametrize("eagle_max_tokens", [4, 196, 256, 729, 1280])
@pytest.mark.parametrize(("width", "height"), [(3000, 2000), (1, 1), (20000, 20000), (199, 1), (35, 7000), (8200, 41)])
def test_cap_limits_eagle_tokens(width: int, height: int, eagle_max_tokens: int) -> None:
    plan = plan_picture(width, height, GeometryOptions(eagle_max_pixels=eagle_max_tokens * TOKEN_PIXELS))
    assert 1 <= plan.eagle_tokens <= eagle_max_tokens
    assert plan.eagle_tokens == (plan.eagle_width // 28) * (plan.eagle_height // 28)


def test_minimum_raises_eagle_tokens() -> None:
    plan = plan_picture(100, 50, GeometryOptions(eagle_min_pixels=100 * TOKEN_PIXELS))
    assert plan.eagle_tokens >= 100


def test_half_tokens_round_to_even() -> None:
    plan = plan_picture(42, 70, GeometryOptions(eagle_min_pixels=TOKEN_PIXELS))
    assert (plan.fetch_width, plan.fetch_height) == (56, 56)  # 1.5 and 2.5 tokens


def test_ratio_of_200_is_accepted_and_more_is_refused() -> None:
    assert plan_picture(200, 1, GeometryOptions()).eagle_tokens >= 1
    with pytest.raises(InputError, match="1 x 201 pixels is too thin"):
        plan_picture(1, 201, GeometryOptions())


def test_without_eagle_any_ratio_is_accepted() -> None:
    plan = plan_picture(1, 20000, GeometryOptions(eagle=False))
    assert (plan.resized_width, plan.resized_height) == (1, 384)
    assert plan.siglip_tokens == 196


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (-1, 10), (2**31, 10), (2**32 + 10, 10)])
def test_impossible_sides_are_refused(width: int, height: int) -> None:
    with pytest.raises(InputError):
        plan_picture(width, height, GeometryOptions())


@pytest.mark.parametrize(
    "options",
    [
        GeometryOptions(canvases=((384, 400),)),
        GeometryOptions(canvases=((0, 384),)),
        GeometryOptions(tile_size=0),
        GeometryOptions(tokens_per_side=500),
        GeometryOptions(max_vision_token=0),
        GeometryOptions(eagle_max_pixels=TOKEN_PIXELS - 1),
        GeometryOptions(eagle_min_pixels=2000, eagle_max_pixels=1000),
        GeometryOptions(eagle_max_pixels=2**64),
    ],
)
def test_contradictory_options_are_refused(options: GeometryOptions) -> None:
    with pytest.raises(InputError):
        plan_picture(448, 448, options)


def test_default_canvases_are_one_to_three_tiles_a_side() -> None:
    explicit = tuple((384 * columns, 384 * rows) for columns in (1, 2, 3) for rows in (1, 2, 3))
    for row in TABLE[:50]:
        with_default = plan_picture(row["w"], row["h"], GeometryOptions())
        assert with_default == plan_picture(row["w"], row["h"], GeometryOptions(canvases=explicit))


def test_first_of_equal_canvases_wins() -> None:
    def grid(plan: Geometry) -> tuple[int, int]:
        return plan.grid_columns, plan.grid_rows

    wide_first = GeometryOptions(canvases=((768, 384), (384, 768)))
    tall_first = GeometryOptions(canvases=((384, 768), (768, 384)))
    assert grid(plan_picture(300, 300, wide_first)) == (2, 1)
    assert grid(plan_picture(300, 300, tall_first)) == (1, 2)
