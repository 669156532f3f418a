"""Reads the questions that the reference is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from valley2_edge.config import first_problem
from valley2_edge.errors import InputError
from valley2_edge.outside_files import check_file_name, json_object, parse_json, text_lines
from valley2_edge.runtime.media.images import load_picture

_Word = Annotated[str, Field(strict=True, min_length=1)]
_Name = Annotated[_Word, Field(pattern=r"^[A-Za-z0-9_-]+$")]
_File = Annotated[_Word, AfterValidator(check_file_name)]


class QuestionLine(BaseModel):
    """One line of the file; paths are relative to it."""

    model_config = ConfigDict(extra="forbid")

    name: _Name
    """What the case is called, and the names of its files."""
    prompt: _Word
    system: _Word | None = None
    """The system prompt; None leaves it to the reference's default."""
    images: list[_File] = []


@dataclass(frozen=True)
class ReferenceQuestion:
    """A question with its pictures."""

    name: str
    history: list[dict[str, str]]
    """The turns as the reference's processor takes them: role and content."""
    pictures: list[npt.NDArray[np.uint8]]
    """RGB, each (height, width, 3)."""


def read_questions(path: Path) -> list[ReferenceQuestion]:
    """Reads a file with one JSON object in each line.

    Raises:
        InputError: The file or a picture cannot be read, a line is no question, two have the same name, or there is
            none.
    """
    questions: list[ReferenceQuestion] = []
    for number, line in text_lines(path, InputError):
        where = f"{path}, line {number}"
        try:
            parsed = QuestionLine.model_validate(json_object(parse_json(line, where, InputError), where, InputError))
        except ValidationError as error:
            raise InputError(f"{where}: {first_problem(error)}") from error
        if any(question.name == parsed.name for question in questions):
            raise InputError(f"{where}: another question is called {parsed.name}.")
        system = [] if parsed.system is None else [{"role": "system", "content": parsed.system}]
        # As the reference reads pictures: without EXIF orientation.
        pictures = [load_picture(path.parent / image, strict=True) for image in parsed.images]
        questions.append(
            ReferenceQuestion(parsed.name, [*system, {"role": "user", "content": parsed.prompt}], pictures)
        )
    if not questions:
        raise InputError(f"{path} has no question.")
    return questions
