"""Compares the plan of every picture size in geometry.json with the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valley2_edge.errors import InputError
from valley2_edge.geometry import GeometryOptions
from valley2_edge.runtime.core.pixels import plan_picture
from valley2_edge.runtime.devices.comparison import Row

TOKEN_PIXELS = 28 * 28
CANVASES = tuple((384 * columns, 384 * rows) for columns in (1, 2, 3) for rows in (1, 2, 3))
"""The released candidates, which the table was made with."""


def check_geometry(table: Sequence[Mapping[str, Any]]) -> Row:
    """Plans every size of the table, for 14 and 9 tokens a side and for both caps of the Eagle branch.

    Args:
        table: The rows of geometry.json.

    Returns:
        A row whose error is the number of sizes that differ; the note names the first.

    Raises:
        InputError: The table lacks a value.
    """
    wrong = []
    for size in table:
        try:
            agrees = all(_agrees(size, tokens, cap) for tokens in (14, 9) for cap in (1280, 16384))
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(f"geometry.json: a row is not complete: {error}.") from error
        if not agrees:
            wrong.append(f"{size['w']} x {size['h']}")
    note = f"{len(table)} sizes" + (f", first wrong one {wrong[0]}" if wrong else "")
    return Row("-", "geometry", len(wrong), 0, note)


def _agrees(size: Mapping[str, Any], tokens_per_side: int, eagle_cap: int) -> bool:
    unpadded, eagle = size[f"unpad{tokens_per_side}"], size[f"eagle{eagle_cap}"]
    options = GeometryOptions(
        tokens_per_side=tokens_per_side, eagle_max_pixels=eagle_cap * TOKEN_PIXELS, canvases=CANVASES
    )
    plan = plan_picture(size["w"], size["h"], options)
    found = (
        (plan.grid_columns, plan.grid_rows),
        (plan.resized_width, plan.resized_height),
        (plan.paste_x, plan.paste_y),
        (plan.kept_columns * plan.kept_rows > 0) and (plan.kept_x, plan.kept_y, plan.kept_columns, plan.kept_rows),
        plan.siglip_tokens,
        (plan.fetch_width, plan.fetch_height),
        (plan.eagle_width, plan.eagle_height),
        plan.eagle_tokens,
    )
    kept = (unpadded["x0"], unpadded["y0"], unpadded["cols"], unpadded["rows"])
    expected = (
        (size["grid_w"], size["grid_h"]),
        tuple(size["resize_wh"]),
        tuple(size["paste_xy"]),
        (unpadded["cols"] * unpadded["rows"] > 0) and kept,
        unpadded["siglip_tokens"],
        tuple(eagle["fetch_wh"]),
        tuple(eagle["final_wh"]),
        eagle["tokens"],
    )
    return found == expected
