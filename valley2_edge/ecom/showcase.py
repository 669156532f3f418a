"""Three held-out questions whose pictures are written to files: one card, two cards, a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from valley2_edge.ecom.benchmark import benchmark_questions
from valley2_edge.ecom.question import Question

_FRAME_MS = 400
_CHOSEN = (("ocr", 0), ("difference_spotting", 0), ("procedure_understanding", 0))
"""Task and number of the question in the benchmark."""
_FILES = (("card.png",), ("before.png", "after.png"), ("clip.webp",))


@dataclass(frozen=True)
class Exhibit:
    """A question about files."""

    question: Question
    """Its images, or its video, are the paths."""
    files: tuple[Path, ...]
    prompt: str
    answer: str
    """The right letter."""


def write_showcase(directory: Path) -> list[Exhibit]:
    """Draws the pictures of three questions.

    Args:
        directory: Where the files go; it is made when it is not there.

    Raises:
        OSError: A file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    exhibits = []
    for (task, number), names in zip(_CHOSEN, _FILES, strict=True):
        drawn = benchmark_questions(number + 1, tasks=(task,))[number]
        files = tuple(directory / name for name in names)
        if isinstance(drawn.video, tuple):
            first, *rest = (_still(frame) for frame in drawn.video)
            first.save(files[0], save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, lossless=True)
        else:
            for picture, file in zip(drawn.images, files, strict=True):
                _still(picture).save(file)
        images, video = (files, None) if drawn.video is None else ((), files[0])
        asked = Question(drawn.identifier, task, drawn.question, drawn.options, drawn.answer, images, video)
        exhibits.append(Exhibit(asked, files, asked.prompt(drawn.answer), asked.right_letter(drawn.answer)))
    return exhibits


def _still(picture: object) -> Image.Image:
    if not isinstance(picture, Image.Image):
        raise TypeError(f"The benchmark draws Pillow images, not {type(picture)}.")
    return picture
