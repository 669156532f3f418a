"""Three held-out questions whose pictures are written to files: one card, two cards, a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from valley2_edge.eval.questions.dialogue import SCENES

_FRAME_MS = 400
_CHOSEN = (
    ("single", "read_price", 0, ("card.png",)),
    ("pair", "difference", 0, ("before.png", "after.png")),
    ("steps", "clip", 0, ("clip.webp",)),
)
"""For each exhibit its scene, kind of question, seed and files."""


@dataclass(frozen=True)
class Exhibit:
    """A question about files."""

    files: tuple[Path, ...]
    """Pictures, or one clip."""
    video: bool
    question: str
    answer: str

    @property
    def sources(self) -> dict[str, Any]:
        """The pictures or the clip as keywords of `Valley2.chat`."""
        return {"video": self.files[0]} if self.video else {"images": self.files}


def write_showcase(directory: Path) -> list[Exhibit]:
    """Draws the pictures of three questions.

    Args:
        directory: Where the files go; it is made when it is not there.

    Raises:
        OSError: A file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    exhibits = []
    for kind, asked, seed, names in _CHOSEN:
        scene = SCENES[kind](Random(f"showcase {seed}"), "test")
        question = next(question for question in scene.opens if question.kind == asked)
        files = tuple(directory / name for name in names)
        if scene.video:
            first, *rest = scene.pictures
            first.save(files[0], save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, lossless=True)
        else:
            for picture, file in zip(scene.pictures, files, strict=True):
                picture.save(file)
        exhibits.append(Exhibit(files, scene.video, question.question, question.answer))
    return exhibits
