"""Product cards: one product on a picture, in five forms from tiny to large."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from valley2_edge.eval.questions.icons import paste_icon, paste_stars
from valley2_edge.eval.questions.product import COLOURS, MAX_RATING, Product

Form = Literal["square", "tall", "wide", "tiny", "large"]

_SIZES: dict[Form, tuple[tuple[int, int], tuple[int, int]]] = {
    # the range of the width, then of the height, in pixels
    "square": ((164, 210), (164, 210)),
    "tall": ((136, 168), (216, 262)),
    "wide": ((250, 306), (110, 140)),
    "tiny": ((84, 112), (84, 112)),
    "large": ((300, 380), (250, 310)),
}
BADGE_COLOURS = {"NEW": (20, 110, 190), "SALE": (200, 20, 60), "ECO": (30, 130, 60), "HOT": (225, 95, 0)}
_BACKGROUNDS = ((250, 250, 250), (242, 236, 224), (226, 236, 244), (232, 242, 228), (244, 230, 234), (214, 216, 220))
_INK = (25, 25, 30)
_STAR = (225, 160, 10)
_ASCENT, _CAP_HEIGHT = 0.97, 0.71
"""Ascent and height of capital letters of the typeface, in heights of a line."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Style:
    """What varies from card to card without changing what it says."""

    form: Form
    width: int
    height: int
    background: tuple[int, int, int]
    colour_shift: tuple[int, int, int]
    text_scale: float
    bold: bool
    jitter: tuple[int, int]


@dataclass(frozen=True)
class Mark:
    """Where something stands on a card: a letter, a star, a product."""

    labels: tuple[str, ...]
    """What it is: a character, "star" or "no star", or a product's kind and colour."""
    box: tuple[float, float, float, float]
    """Place of the mark: left, top, right and bottom in pixels."""


def random_style(random: Random, form: Form) -> Style:
    """Draws size, colours and positions of a card."""
    (least_width, most_width), (least_height, most_height) = _SIZES[form]
    shade = random.randint(-6, 5)
    red, green, blue = random.choice(_BACKGROUNDS)
    return Style(
        form=form,
        width=random.randint(least_width, most_width),
        height=random.randint(least_height, most_height),
        background=(red + shade, green + shade, blue + shade),
        colour_shift=(random.randint(-18, 18), random.randint(-18, 18), random.randint(-18, 18)),
        text_scale=random.uniform(0.95, 1.1),
        bold=random.random() < 0.5,
        jitter=(random.randint(-3, 3), random.randint(-3, 3)),
    )


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """The typeface that Pillow carries (Aileron, CC0), `size` pixels high."""
    return ImageFont.load_default(size)


def shifted_colour(name: str, shift: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour of `COLOURS`, a little off."""
    red, green, blue = COLOURS[name]
    return (_clamp(red + shift[0]), _clamp(green + shift[1]), _clamp(blue + shift[2]))


def draw_card(product: Product, style: Style, marks: list[Mark] | None = None) -> Image.Image:
    """Draws a card.

    Args:
        product: What to show; attributes that are None stay away.
        style: How the card looks.
        marks: Gets what stands where, for a vision tower to learn from.

    Returns:
        The picture, mode RGB.
    """
    picture = Image.new("RGB", (style.width, style.height), style.background)
    marks = [] if marks is None else marks
    if style.form == "wide":
        icons, text = (0, 0, style.width // 2, style.height), (style.width // 2, 0, style.width, style.height)
    else:
        share = 0.62 if product.name is None else 0.5
        middle = int(style.height * share)
        icons, text = (0, 0, style.width, middle), (0, middle, style.width, style.height)
    _draw_icons(picture, product, style, icons, marks)
    _draw_lines(picture, product, style, text, marks)
    if product.badge is not None:
        _draw_badge(picture, product.badge, style, marks)
    return picture


def _draw_icons(
    picture: Image.Image, product: Product, style: Style, area: tuple[int, int, int, int], marks: list[Mark]
) -> None:
    left, top, right, bottom = area
    width, height = right - left, bottom - top
    columns, rows = _grid(product.count, width / height)
    side = min(78, int(min(width / columns, height / rows) * 0.86))
    colour = shifted_colour(product.colour, style.colour_shift)
    for index in range(product.count):
        column, row = index % columns, index // columns
        centre_x = left + width * (2 * column + 1) / (2 * columns)
        centre_y = top + height * (2 * row + 1) / (2 * rows)
        corner = (int(centre_x - side / 2), int(centre_y - side / 2))
        paste_icon(picture, product.kind, colour, corner, side)
        box = (corner[0], corner[1], corner[0] + side, corner[1] + side)
        marks.append(Mark((product.kind, product.colour), box))


def _grid(count: int, aspect: float) -> tuple[int, int]:
    """Columns and rows for up to four products."""
    if count == 4:
        return (4, 1) if aspect > 2.6 else (2, 2)
    return (count, 1) if aspect > 1.2 or count == 1 else (2, (count + 1) // 2)


def _draw_lines(
    picture: Image.Image, product: Product, style: Style, area: tuple[int, int, int, int], marks: list[Mark]
) -> None:
    scale = style.text_scale * (1.35 if style.form == "large" else 1.0)
    name_size, price_size, star = round(22 * scale), round(25 * scale), round(15 * scale)
    if style.form == "tiny":
        price_size = round(22 * scale)
    lines = [
        (text, size) for text, size in ((product.name, name_size), (product.price, price_size)) if text is not None
    ]
    heights = [size + 4 for _, size in lines] + ([star + 4] if product.rating is not None else [])
    left, top, right, bottom = area
    y = top + max(0, (bottom - top - sum(heights)) // 2) + style.jitter[1]
    draw = ImageDraw.Draw(picture)
    centre = (left + right) // 2 + style.jitter[0]
    stroke = 0.5 if style.bold else 0.0
    for text, size in lines:
        draw.text((centre, y), text, font=font(size), fill=_INK, anchor="ma", stroke_width=stroke, stroke_fill=_INK)
        marks += _glyphs(text, size, (centre - draw.textlength(text, font=font(size)) / 2, y))
        y += size + 4
    if product.rating is not None:
        width = MAX_RATING * (star + 2)
        first = centre - width // 2
        paste_stars(picture, product.rating, MAX_RATING, (first, y + 1), star, _STAR)
        for index in range(MAX_RATING):
            x = first + index * (star + 2)
            label = "star" if index < product.rating else "no star"
            marks.append(Mark((label,), (x, y + 1, x + star, y + 1 + star)))


def _glyphs(text: str, size: int, corner: tuple[float, float]) -> list[Mark]:
    """The characters of a line whose left upper corner is given, each between its neighbours and cap height high."""
    line = Image.new("L", (1, 1))
    draw = ImageDraw.Draw(line)
    ends = [corner[0] + draw.textlength(text[:count], font=font(size)) for count in range(len(text) + 1)]
    base = corner[1] + _ASCENT * size
    return [
        Mark((character,), (ends[index], base - _CAP_HEIGHT * size, ends[index + 1], base))
        for index, character in enumerate(text)
    ]


def _draw_badge(picture: Image.Image, badge: str, style: Style, marks: list[Mark]) -> None:
    size = 22 if style.form == "large" else 16
    draw = ImageDraw.Draw(picture)
    width = int(draw.textlength(badge, font=font(size))) + 8
    draw.rectangle((0, 0, width, size + 5), fill=BADGE_COLOURS[badge])
    draw.text((4, 1), badge, font=font(size), fill=(255, 255, 255))
    marks += _glyphs(badge, size, (4, 1))


def _clamp(value: int) -> int:
    return max(0, min(255, value))
