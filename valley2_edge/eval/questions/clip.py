"""Frames of short clips: a moving product, a slide show, a badge that appears, the steps of packing a parcel."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from valley2_edge.eval.questions.card import font, shifted_colour
from valley2_edge.eval.questions.icons import paste_icon

FRAMES = 8
MOTIONS = ("moves right", "moves left", "moves up", "moves down", "grows", "shrinks")
STEPS = ("fill", "seal", "label", "weigh", "wrap", "ship")

_SIZES = ((112, 112), (112, 112), (126, 98), (98, 126), (140, 112))
_BOX = (190, 150, 100)
_BOX_EDGE = (120, 90, 55)
_BACKGROUNDS = ((248, 248, 248), (228, 234, 242), (238, 232, 222), (226, 238, 226))

Colour = tuple[int, int, int]


def blank(random: Random) -> Image.Image:
    """An empty frame of random size and colour."""
    return Image.new("RGB", random.choice(_SIZES), random.choice(_BACKGROUNDS))


def motion_frames(random: Random, kind: str, colour: str, motion: str) -> tuple[Image.Image, ...]:
    """A product that moves or changes its size; motion is one of `MOTIONS`."""
    empty = blank(random)
    fill = shifted_colour(colour, _shift(random))
    frames = []
    reach_x, reach_y = empty.width - 48, empty.height - 48
    rest_x, rest_y = random.randint(0, reach_x), random.randint(0, reach_y)
    for index in range(FRAMES):
        along = index / (FRAMES - 1)
        x, y, side = rest_x, rest_y, 46
        if motion in ("moves right", "moves left"):
            x = int(reach_x * (along if motion == "moves right" else 1 - along))
        elif motion in ("moves down", "moves up"):
            y = int(reach_y * (along if motion == "moves down" else 1 - along))
        else:
            share = along if motion == "grows" else 1 - along
            side = int(22 + 62 * share)
            x, y = (empty.width - side) // 2, (empty.height - side) // 2
        frame = empty.copy()
        paste_icon(frame, kind, fill, (x, y), side)
        frames.append(frame)
    return tuple(frames)


def show_frames(random: Random, products: list[tuple[str, str]]) -> tuple[Image.Image, ...]:
    """Products (kind, colour) one after the other, each for its share of the frames."""
    empty = blank(random)
    frames = []
    for index in range(FRAMES):
        kind, colour = products[index * len(products) // FRAMES]
        side = random.randint(58, 72)
        frame = empty.copy()
        corner = _centred(random, frame, side)
        paste_icon(frame, kind, shifted_colour(colour, _shift(random, 8)), corner, side)
        frames.append(frame)
    return tuple(frames)


def badge_frames(
    random: Random, kind: str, colour: str, badge: str, badge_colour: Colour, quarter: int
) -> tuple[Image.Image, ...]:
    """One product all along, and a badge on the two frames of a quarter, 0 to 3."""
    empty = blank(random)
    fill = shifted_colour(colour, _shift(random))
    side = random.randint(54, 64)
    corner = _centred(random, empty, side)
    frames = []
    for index in range(FRAMES):
        frame = empty.copy()
        paste_icon(frame, kind, fill, (corner[0] + random.randint(-2, 2), corner[1] + 6), side)
        if index * 4 // FRAMES == quarter:
            _draw_badge(frame, badge, badge_colour)
        frames.append(frame)
    return tuple(frames)


def step_frames(random: Random, steps: list[str]) -> tuple[Image.Image, ...]:
    """The steps of packing a parcel, each for its share of the frames."""
    empty = blank(random)
    frames = []
    for index in range(FRAMES):
        frame = empty.copy()
        corner = _centred(random, frame, 84)
        _draw_step(ImageDraw.Draw(frame), steps[index * len(steps) // FRAMES], corner)
        frames.append(frame)
    return tuple(frames)


def _shift(random: Random, most: int = 18) -> Colour:
    return (random.randint(-most, most), random.randint(-most, most), random.randint(-most, most))


def _centred(random: Random, frame: Image.Image, side: int) -> tuple[int, int]:
    return (frame.width - side) // 2 + random.randint(-5, 5), (frame.height - side) // 2 + random.randint(-5, 5)


def _draw_badge(frame: Image.Image, badge: str, colour: Colour) -> None:
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, 0, int(draw.textlength(badge, font=font(18))) + 8, 23), fill=colour)
    draw.text((4, 1), badge, font=font(18), fill=(255, 255, 255))


def _draw_step(draw: ImageDraw.ImageDraw, step: str, corner: tuple[int, int]) -> None:
    left, top = corner  # of a square of 84 pixels
    if step == "ship":
        draw.rectangle((left, top + 20, left + 54, top + 62), fill=(60, 100, 190))
        draw.polygon(_moved(corner, (56, 34), (72, 34), (82, 48), (82, 62), (56, 62)), fill=(60, 100, 190))
        for x in (12, 62):
            draw.ellipse((left + x, top + 56, left + x + 16, top + 72), fill=(30, 30, 30))
        return
    low = 14 if step == "weigh" else 0
    box = (left + 16, top + 34 - low, left + 68, top + 80 - low)
    draw.rectangle(box, fill=_BOX, outline=_BOX_EDGE, width=2)
    if step == "fill":
        draw.polygon(_moved(corner, (16, 34), (2, 20), (8, 16), (26, 34)), fill=_BOX_EDGE)
        draw.polygon(_moved(corner, (68, 34), (82, 20), (76, 16), (58, 34)), fill=_BOX_EDGE)
        draw.ellipse((left + 30, top, left + 54, top + 24), fill=(205, 35, 40))
    elif step == "seal":
        draw.rectangle((left + 36, top + 34, left + 48, top + 80), fill=(245, 235, 190))
        draw.rectangle((left + 16, top + 34, left + 68, top + 42), fill=(245, 235, 190))
    elif step == "label":
        draw.rectangle((left + 26, top + 46, left + 60, top + 70), fill=(255, 255, 255), outline=(30, 30, 30))
        for y in (52, 58, 64):
            draw.line((left + 30, top + y, left + 56, top + y), fill=(30, 30, 30), width=2)
    elif step == "weigh":
        draw.rectangle((left + 4, top + 66, left + 80, top + 82), fill=(110, 110, 120))
        draw.ellipse((left + 34, top + 66, left + 50, top + 82), fill=(255, 255, 255))
    else:  # wrap
        draw.rectangle((left + 38, top + 34, left + 46, top + 80), fill=(215, 40, 90))
        draw.rectangle((left + 16, top + 53, left + 68, top + 61), fill=(215, 40, 90))
        draw.ellipse((left + 22, top + 16, left + 42, top + 34), fill=(215, 40, 90))
        draw.ellipse((left + 42, top + 16, left + 62, top + 34), fill=(215, 40, 90))


def _moved(corner: tuple[int, int], *points: tuple[int, int]) -> list[tuple[int, int]]:
    return [(corner[0] + x, corner[1] + y) for x, y in points]
