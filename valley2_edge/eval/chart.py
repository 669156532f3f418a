"""A score as a picture: a bar for each task with its interval, and lines where guessing would be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from valley2_edge.errors import InputError
from valley2_edge.eval.fonts import Fonts
from valley2_edge.eval.intervals import Estimate
from valley2_edge.eval.scoring import CHANCE, CONTENT_GUESS, Score

WIDTH = 1000
_LEFT, _RIGHT = 300, 860
"""Where 0 % and 100 % are, in pixels from the left."""
_TOP, _ROW, _BAR, _FOOT = 112, 40, 22, 96
_BACKGROUND, _INK, _SOFT, _GRID = (255, 255, 255), (31, 35, 40), (101, 109, 118), (225, 228, 232)
_TASK, _AVERAGE, _GUESS = (84, 131, 179), (45, 74, 112), (190, 84, 58)


@dataclass(frozen=True)
class _Canvas:
    """What is drawn on, and the fonts for it."""

    draw: ImageDraw.ImageDraw
    fonts: Fonts

    def write(
        self,
        place: tuple[int, int],
        text: str,
        size: int,
        colour: tuple[int, int, int] = _INK,
        anchor: str = "la",
        width: int = WIDTH - 48,
    ) -> None:
        """Writes a text, or as much of its beginning as fits, with dots."""
        text, font = self.fonts.choose(text[:width], size)  # no character is narrower than a pixel
        shown = text
        while text and self.draw.textlength(shown, font=font) > width:
            text = text[:-1]
            shown = f"{text}..."
        self.draw.text(place, shown, colour, font=font, anchor=anchor)


def draw_score(score: Score, title: str, subtitle: str = "") -> Image.Image:
    """Draws a score.

    Args:
        score: The score to draw, with at least one task.
        title: First line, for example the name of the bundle.
        subtitle: Second line, below the title.

    Returns:
        RGB, 1000 pixels wide.
    """
    rows = [(_readable(task), result.accuracy, result.plain_accuracy) for task, result in score.tasks.items()]
    rows.append(("average", score.average, score.plain_average))
    bottom = _TOP + _ROW * len(rows)
    image = Image.new("RGB", (WIDTH, bottom + _FOOT), _BACKGROUND)
    canvas = _Canvas(ImageDraw.Draw(image), Fonts())
    canvas.write((24, 20), title, 26)
    canvas.write((24, 58), subtitle, 17, _SOFT)
    _draw_axis(canvas, bottom)
    for index, (name, estimate, plain) in enumerate(rows):
        colour = _AVERAGE if index == len(rows) - 1 else _TASK
        _draw_row(canvas, _TOP + _ROW * index, name, estimate, plain, colour)
    _draw_guesses(canvas, bottom)
    legend = (
        "bar: right in all four orders of the options, with its 95 % interval     diamond: right answers of all given"
    )
    canvas.write((24, bottom + 64), legend, 15, _SOFT)
    canvas.fonts.warn()
    return image


def save_score(score: Score, path: Path, title: str, subtitle: str = "") -> None:
    """Draws a score into a PNG file.

    Raises:
        InputError: The file's name does not end in .png.
        OSError: It cannot be written.
    """
    check_picture_path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        draw_score(score, title, subtitle).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_picture_path(path: Path) -> None:
    """Fails early for a picture that could not be written later.

    Raises:
        InputError: The file's name does not end in .png, or its directory is missing.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"The picture of the result is a PNG file; {path} does not end in .png.")
    if path.is_dir():
        raise InputError(f"The picture of the result is a PNG file; {path} is a directory.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"There is no directory {path.absolute().parent} for the picture of the result.")


def _draw_axis(canvas: _Canvas, bottom: int) -> None:
    for percent in range(0, 101, 20):
        x = _place(percent / 100)
        canvas.draw.line((x, _TOP - 8, x, bottom), fill=_GRID, width=1)
        canvas.write((x, bottom + 6), f"{percent} %", 15, _SOFT, "mt")


def _draw_row(
    canvas: _Canvas, top: int, name: str, estimate: Estimate, plain: float, colour: tuple[int, int, int]
) -> None:
    middle = top + _ROW // 2
    canvas.write((_LEFT - 14, middle), name, 18, anchor="rm", width=_LEFT - 30)
    begin, end = _place(0), _place(estimate.value)
    canvas.draw.rectangle((begin, middle - _BAR // 2, max(end, begin + 1), middle + _BAR // 2), fill=colour)
    low, high = _place(estimate.low), _place(estimate.high)
    canvas.draw.line((low, middle, high, middle), fill=_INK, width=2)
    for x in (low, high):
        canvas.draw.line((x, middle - 5, x, middle + 5), fill=_INK, width=2)
    x = _place(plain)
    canvas.draw.polygon(
        ((x - 5, middle), (x, middle - 5), (x + 5, middle), (x, middle + 5)), fill=_BACKGROUND, outline=_INK
    )
    canvas.write((_RIGHT + 16, middle), f"{100 * estimate.value:.1f} %", 18, anchor="lm")


def _draw_guesses(canvas: _Canvas, bottom: int) -> None:
    guesses = ((CHANCE, "random letters", "rt"), (CONTENT_GUESS, "guess by content", "mt"))
    for share, label, anchor in guesses:
        x = _place(share)
        for y in range(_TOP - 8, bottom, 10):
            canvas.draw.line((x, y, x, min(y + 5, bottom)), fill=_GUESS, width=2)
        canvas.write((x + 8, bottom + 30), f"{label} {round(100 * share, 1):g} %", 15, _GUESS, anchor)


def _place(share: float) -> int:
    return round(_LEFT + share * (_RIGHT - _LEFT))


def _readable(task: str) -> str:
    words = task.replace("_", " ")
    return words.upper() if words == "ocr" else words
