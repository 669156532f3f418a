"""Silhouettes of the products, drawn once per size and filled with any colour."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageDraw

_OVERSAMPLING = 4
_UNIT = 100  # the drawings below fill a square of this side


class _Pen:
    """Draws in units of the square on an oversampled mask; `body` is filled with colour, `detail` with a light one."""

    def __init__(self, side: int) -> None:
        self._scale = side * _OVERSAMPLING / _UNIT
        size = (side * _OVERSAMPLING, side * _OVERSAMPLING)
        self._masks = {name: Image.new("L", size) for name in ("body", "detail")}
        self._draws = {name: ImageDraw.Draw(mask) for name, mask in self._masks.items()}

    def box(self, *corners: float, layer: str = "body", radius: float = 0) -> None:
        scaled = [self._scale * corner for corner in corners]
        self._draws[layer].rounded_rectangle(scaled, radius=self._scale * radius, fill=255)

    def ellipse(self, *corners: float, layer: str = "body") -> None:
        self._draws[layer].ellipse([self._scale * corner for corner in corners], fill=255)

    def ring(self, *corners: float, width: float) -> None:
        scaled = [self._scale * corner for corner in corners]
        self._draws["body"].ellipse(scaled, outline=255, width=round(self._scale * width))

    def polygon(self, *corners: tuple[float, float], layer: str = "body") -> None:
        self._draws[layer].polygon([(self._scale * x, self._scale * y) for x, y in corners], fill=255)

    def line(self, *corners: float, width: float, layer: str = "detail") -> None:
        scaled = [self._scale * corner for corner in corners]
        self._draws[layer].line(scaled, fill=255, width=max(1, round(self._scale * width)))

    def finish(self, side: int) -> tuple[Image.Image, Image.Image]:
        body, detail = (self._masks[name].reduce(_OVERSAMPLING) for name in ("body", "detail"))
        return body.crop((0, 0, side, side)), detail.crop((0, 0, side, side))


def _mug(pen: _Pen) -> None:
    pen.ring(52, 30, 98, 76, width=10)
    pen.box(8, 16, 72, 92, radius=8)
    pen.box(16, 22, 64, 30, layer="detail", radius=3)


def _lamp(pen: _Pen) -> None:
    pen.polygon((30, 6), (70, 6), (94, 54), (6, 54))
    pen.box(45, 54, 55, 86)
    pen.box(24, 84, 76, 95, radius=4)


def _bag(pen: _Pen) -> None:
    pen.ring(28, 4, 72, 60, width=8)
    pen.polygon((12, 34), (88, 34), (96, 95), (4, 95))


def _ball(pen: _Pen) -> None:
    pen.ellipse(6, 6, 94, 94)
    pen.line(6, 50, 94, 50, width=5)
    pen.line(50, 6, 50, 94, width=5)


def _book(pen: _Pen) -> None:
    pen.box(14, 6, 86, 94, radius=4)
    pen.box(24, 6, 29, 94, layer="detail")
    pen.box(42, 24, 74, 32, layer="detail")
    pen.box(42, 40, 74, 48, layer="detail")


def _clock(pen: _Pen) -> None:
    pen.ellipse(4, 4, 96, 96)
    pen.ellipse(17, 17, 83, 83, layer="detail")


def _chair(pen: _Pen) -> None:
    pen.box(18, 4, 32, 96)
    pen.box(18, 48, 84, 62)
    pen.box(72, 50, 84, 96)


def _bottle(pen: _Pen) -> None:
    pen.box(40, 2, 60, 30, radius=3)
    pen.box(26, 26, 74, 97, radius=10)
    pen.box(26, 52, 74, 74, layer="detail")


_DRAWINGS: dict[str, Callable[[_Pen], None]] = {
    "mug": _mug,
    "lamp": _lamp,
    "bag": _bag,
    "ball": _ball,
    "book": _book,
    "clock": _clock,
    "chair": _chair,
    "bottle": _bottle,
}


@lru_cache(maxsize=512)
def icon_masks(kind: str, side: int) -> tuple[Image.Image, Image.Image]:
    """The masks of a product's body and of its light details, (side, side) each, mode L."""
    pen = _Pen(side)
    _DRAWINGS[kind](pen)
    return pen.finish(side)


def paste_icon(
    picture: Image.Image, kind: str, colour: tuple[int, int, int], corner: tuple[int, int], side: int
) -> None:
    """Draws a product on a picture.

    Args:
        picture: A picture in mode RGB, which is changed.
        kind: The product's kind, one of `KINDS`.
        colour: Colour of the product's body.
        corner: Left and top in pixels.
        side: Side of the square that the product fills, in pixels.
    """
    body, detail = icon_masks(kind, side)
    picture.paste(colour, corner, body)
    picture.paste((235, 235, 230), corner, detail)
    if kind == "clock":
        _paste_hands(picture, corner, side)


def _paste_hands(picture: Image.Image, corner: tuple[int, int], side: int) -> None:
    draw = ImageDraw.Draw(picture)
    middle = (corner[0] + side // 2, corner[1] + side // 2)
    width = max(1, side // 16)
    draw.line([middle, (middle[0], middle[1] - side // 4)], fill=(60, 60, 60), width=width)
    draw.line([middle, (middle[0] + side // 5, middle[1])], fill=(60, 60, 60), width=width)


def paste_stars(
    picture: Image.Image, rating: int, total: int, corner: tuple[int, int], side: int, filled: tuple[int, int, int]
) -> None:
    """Draws `rating` filled stars and the rest of `total` as outlines, side by side; side in pixels of one star."""
    full, outline = _star_masks(side)
    for index in range(total):
        place = (corner[0] + index * (side + 2), corner[1])
        if index < rating:
            picture.paste(filled, place, full)
        else:
            picture.paste((160, 160, 160), place, outline)


@lru_cache(maxsize=64)
def _star_masks(side: int) -> tuple[Image.Image, Image.Image]:
    points = [
        (50.0, 2.0), (62.0, 36.0), (98.0, 38.0), (69.0, 60.0), (80.0, 96.0),
        (50.0, 75.0), (20.0, 96.0), (31.0, 60.0), (2.0, 38.0), (38.0, 36.0),
    ]  # fmt: skip
    scale = side * _OVERSAMPLING / _UNIT
    scaled = [(x * scale, y * scale) for x, y in points]
    size = (side * _OVERSAMPLING, side * _OVERSAMPLING)
    full, outline = Image.new("L", size), Image.new("L", size)
    ImageDraw.Draw(full).polygon(scaled, fill=255)
    ImageDraw.Draw(outline).line([*scaled, scaled[0]], fill=255, width=_OVERSAMPLING)
    return full.reduce(_OVERSAMPLING), outline.reduce(_OVERSAMPLING)
