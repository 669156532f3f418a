"""Draws the picture of the self-test, so that a bundle carries nobody's photograph."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 160, 120


def draw_picture() -> Image.Image:
    """Draws a sky with a sun, a hill, a house, a striped band and two words: flat areas, edges, gradients and text.

    Returns:
        An RGB picture of 160 x 120 pixels, the same on every run.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    for y in range(HEIGHT):
        draw.line([(0, y), (WIDTH, y)], fill=(90 + y, 150 + y // 2, 250 - y // 3))
    draw.ellipse([112, 10, 148, 46], fill=(255, 214, 60))
    draw.polygon([(0, 92), (60, 66), (160, 98), (160, 120), (0, 120)], fill=(64, 140, 70))
    draw.rectangle([28, 60, 68, 96], fill=(190, 80, 60), outline=(60, 20, 20))
    draw.polygon([(22, 60), (48, 38), (74, 60)], fill=(110, 40, 40))
    draw.rectangle([42, 74, 54, 96], fill=(250, 240, 200))
    for x in range(84, 156, 6):
        draw.rectangle([x, 104, x + 2, 114], fill=(20, 20, 20))
    draw.text((6, 6), "VALLEY 2", fill=(20, 20, 90), font=ImageFont.load_default())
    draw.text((88, 84), "self-test", fill=(255, 255, 255), font=ImageFont.load_default())
    return picture
