"""Fonts for pictures: Pillow's own where it has every character, else one of the system's that does."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from valley2_edge.errors import Valley2Warning

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_NOWHERE = "\U0010ffff"
"""No font has it, so that it is drawn as what stands for a missing character."""
_LIKELY = (
    "cjk",
    "sourcehan",
    "wqy",
    "droidsansfallback",
    "pingfang",
    "hiragino",
    "stheiti",
    "msyh",
    "meiryo",
    "malgun",
)
"""Parts of the names of files that have Chinese, Japanese or Korean characters; these are tried first."""
_STYLED = ("black", "bold", "italic", "light", "medium", "mono", "oblique", "thin")
"""Parts of the names of fonts that do not look like the rest of the picture; these are tried last."""
_MOST_FILES = 2000


class Fonts:
    """Chooses a font for each text of a picture, and remembers which characters none of them has."""

    def __init__(self) -> None:
        self.missing = ""
        """Characters that are shown by their codes."""

    def choose(self, text: str, size: int) -> tuple[str, Font]:
        """A font for a text, and the text as that font can show it.

        Args:
            text: One line of text.
            size: Height of the font in pixels.
        """
        own = ImageFont.load_default(size)
        foreign = "".join(dict.fromkeys(mark for mark in text if not _has(own, mark)))
        if not foreign:
            return text, own
        path = _system_font("".join(mark for mark in foreign if mark.isprintable()))
        font = own if path is None else ImageFont.truetype(path, size)
        left = [mark for mark in foreign if not _has(font, mark)]
        self.missing += "".join(mark for mark in left if mark.isprintable() and mark not in self.missing)
        return "".join(ascii(mark)[1:-1] if mark in left else mark for mark in text), font

    def warn(self) -> None:
        """Says which characters are shown by their codes, if any are."""
        if self.missing:
            warnings.warn(
                f"no font of this machine has {self.missing[:8]!r}, so the picture shows codes instead; install one "
                "that does, for example Noto Sans CJK",
                Valley2Warning,
                stacklevel=3,
            )


def _has(font: Font, mark: str) -> bool:
    if mark == " ":
        return True
    if not isinstance(font, ImageFont.FreeTypeFont):
        return mark.isascii()
    return mark.isprintable() and _drawn(font, mark) != _drawn(font, _NOWHERE)


def _drawn(font: ImageFont.FreeTypeFont, mark: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(mark)
    return mask.size, bytes(mask)


@lru_cache
def _system_font(marks: str) -> Path | None:
    """The first font of the system that has all of these characters; None: no font has, or there are none."""
    for path in _font_files() if marks else ():
        try:
            font = ImageFont.truetype(path, 16)
        except OSError:
            continue  # not a font after all, or of a kind that FreeType does not read
        if all(_has(font, mark) for mark in marks):
            return path
    return None


def _font_files() -> Iterator[Path]:
    found = []
    for directory in _font_directories():
        files = (path for path in directory.rglob("*") if path.suffix.lower() in (".ttf", ".ttc", ".otf"))
        found += [path for path, _ in zip(files, range(_MOST_FILES), strict=False)]
    yield from sorted(found, key=_unlikeness)


def _unlikeness(path: Path) -> tuple[bool, bool, str]:
    name = path.name.lower()
    return not any(part in name for part in _LIKELY), any(part in name for part in _STYLED), str(path)


def _font_directories() -> list[Path]:
    if sys.platform == "win32":
        return [Path("C:/Windows/Fonts")]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), Path.home() / "Library/Fonts"]
    shared = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
    return [*shared, Path.home() / ".local/share/fonts", Path.home() / ".fonts"]
