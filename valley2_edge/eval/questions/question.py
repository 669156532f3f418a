"""A question about pictures or about a clip, with its right answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from valley2_edge.errors import InputError
from valley2_edge.runtime.media.images import ImageSource

TASKS: tuple[str, ...] = (
    "image_understanding",
    "ocr",
    "difference_spotting",
    "multi_image_understanding",
    "product_understanding",
    "global_video_understanding",
    "procedure_understanding",
    "action_localisation",
    "video_content_retrieval",
)
"""The nine tasks of the Ecom-VQA benchmark in the Valley2 paper (arXiv 2501.05901)."""

LETTERS = "ABCD"
"""The names of the four options, in the order in which they are shown."""

INSTRUCTION = "Answer with one of the options."


@dataclass(frozen=True)
class Question:
    """A question with four options, one of them right."""

    identifier: str
    """Unique among the questions that are asked together, as ocr-0007."""
    task: str
    """One of `TASKS`, or the user's own word."""
    question: str
    options: tuple[str, ...]
    """The four options, in the order of the file."""
    answer: int
    """Index of the right option."""
    images: tuple[ImageSource, ...] = ()
    """The pictures: paths, Pillow images or uint8 arrays."""
    video: str | Path | tuple[ImageSource, ...] | None = None
    """The clip: path of a video, or its frames."""

    def __post_init__(self) -> None:
        if len(self.options) != len(LETTERS):
            raise InputError(f"Question {self.identifier} has {len(self.options)} options; it needs {len(LETTERS)}.")
        if not 0 <= self.answer < len(LETTERS):
            raise InputError(f"Question {self.identifier}: the answer must be 0 to 3, not {self.answer}.")
        if self.images and self.video is not None:
            raise InputError(f"Question {self.identifier} has pictures and a video; it may have one of them.")

    def prompt(self, rotation: int = 0) -> str:
        """The text that the model is asked: the question, four lines "A. ..", then `INSTRUCTION`.

        The options keep their cyclic order: the list is turned until the right one stands at letter `rotation`.

        Args:
            rotation: Place of the right option: 0 is A, 3 is D.

        Raises:
            InputError: rotation is not 0 to 3.
        """
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.shown(rotation), strict=True)]
        return "\n".join([self.question, *lines, INSTRUCTION])

    def shown(self, rotation: int = 0) -> tuple[str, ...]:
        """The options as `prompt(rotation)` shows them, A to D.

        Raises:
            InputError: rotation is not 0 to 3.
        """
        self.right_letter(rotation)
        turn = self.answer - rotation
        return tuple(self.options[(place + turn) % len(LETTERS)] for place in range(len(LETTERS)))

    def right_letter(self, rotation: int = 0) -> str:
        """The letter of the right option in `prompt(rotation)`.

        Raises:
            InputError: rotation is not 0 to 3.
        """
        if not 0 <= rotation < len(LETTERS):
            raise InputError(f"rotation must be 0 to 3, not {rotation}.")
        return LETTERS[rotation]


@dataclass(frozen=True)
class OpenQuestion:
    """A question that is answered in words."""

    identifier: str
    kind: str
    """What is asked for: read_price, describe, attributes, think ..."""
    question: str
    answer: str
    """The text that is expected."""
    images: tuple[ImageSource, ...] = ()
    video: str | Path | tuple[ImageSource, ...] | None = None
    think: bool = False
    """Whether the question is asked behind the think prompt, for an answer in the four tagged steps."""
