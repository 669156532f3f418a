"""Questions on disk: a JSON object a line, with the pictures beside (docs/evaluation.md)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from valley2_edge.errors import InputError
from valley2_edge.eval.questions.question import LETTERS, Question
from valley2_edge.output_lock import output_lock
from valley2_edge.outside_files import check_file_name, is_file, json_object, parse_json, text_lines
from valley2_edge.runtime.media.images import ImageSource, load_picture

QUESTIONS_FILE = "questions.jsonl"
PICTURES_DIRECTORY = "pictures"

_Word = Annotated[str, Field(strict=True, min_length=1)]
_File = Annotated[_Word, AfterValidator(check_file_name)]


class QuestionLine(BaseModel):
    """One line of the file; paths are relative to it."""

    model_config = ConfigDict(extra="forbid")

    id: _Word
    task: _Word
    question: _Word
    options: Annotated[list[_Word], Field(min_length=len(LETTERS), max_length=len(LETTERS))]
    answer: Annotated[StrictInt, Field(ge=0, lt=len(LETTERS))] | Annotated[str, Field(pattern=f"^[{LETTERS}]$")]
    """Index of the right option from 0, or its letter."""
    images: list[_File] = []
    video: _File | None = None
    """Path of a video, or of an animated picture."""
    frames: list[_File] | None = None
    """Pictures that are the frames of a video, in order."""

    @model_validator(mode="after")
    def _check(self) -> QuestionLine:
        if len(set(self.options)) < len(self.options):
            raise ValueError("two of the options are the same")
        if sum((bool(self.images), self.video is not None, self.frames is not None)) > 1:
            raise ValueError("only one of images, video and frames may be given")
        for name in ("images", "frames"):
            if getattr(self, name) == [] and name in self.model_fields_set:
                raise ValueError(f"{name} is empty: leave it out of a question without pictures")
        return self

    def to_question(self, directory: Path) -> Question:
        """The question, its files found from `directory`."""
        video: str | Path | tuple[ImageSource, ...] | None = None
        if self.video is not None:
            video = directory / self.video
        elif self.frames is not None:
            video = tuple(directory / frame for frame in self.frames)
        return Question(
            identifier=self.id,
            task=self.task,
            question=self.question,
            options=tuple(self.options),
            answer=self.answer if isinstance(self.answer, int) else LETTERS.index(self.answer),
            images=tuple(directory / image for image in self.images),
            video=video,
        )


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """Reads a file of questions; empty lines are skipped.

    Raises:
        InputError: The file is missing or has no question, or a line is not as it must be, repeats an id or names a
            file that is not there; the text says which line.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise InputError(f"There is no file of questions at {path}.")
    questions: list[Question] = []
    line_of: dict[str, int] = {}
    for number, line in text_lines(path, InputError):
        where = f"{path}, line {number}"
        question = _parse(line, where).to_question(path.parent)
        if question.identifier in line_of:
            first = line_of[question.identifier]
            raise InputError(f'{where}: the id "{question.identifier}" is that of line {first} already.')
        _check_presence(question, where)
        line_of[question.identifier] = number
        questions.append(question)
    if not questions:
        raise InputError(f"{path} has no question.")
    return questions


def write_questions(directory: str | os.PathLike[str], questions: Sequence[Question]) -> Path:
    """Writes questions as `questions.jsonl` with their pictures as PNG files beside; all of it or nothing.

    Args:
        directory: The folder to make; it must not exist.
        questions: Questions with unique identifiers.

    Returns:
        The path of the file of questions.

    Raises:
        InputError: The directory exists, or a picture is unusable.
    """
    directory = Path(directory)
    if directory.exists():
        raise InputError(f"{directory} exists already; name a directory that is to be made.")
    with output_lock(directory):
        return _write_directory(directory, questions)


def _write_directory(directory: Path, questions: Sequence[Question]) -> Path:
    temporary = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    try:
        (temporary / PICTURES_DIRECTORY).mkdir(parents=True)
        with (temporary / QUESTIONS_FILE).open("w", encoding="utf-8") as stream:
            for index, question in enumerate(questions):
                line = _write_question(question, index, temporary)
                stream.write(json.dumps(line.model_dump(exclude_defaults=True), ensure_ascii=False) + "\n")
        temporary.replace(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return directory / QUESTIONS_FILE


def _parse(line: str, where: str) -> QuestionLine:
    values = json_object(parse_json(line, where, InputError), where, InputError)
    try:
        return QuestionLine.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # The branch of `answer` that was tried last is no place that a person knows.
        place = str(first["loc"][0]) if first["loc"] else ""
        if place == "answer" and first["type"] != "missing":
            raise InputError(f"{where}: answer must be 0 to 3 or one letter of {LETTERS}.") from error
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {f'{place}: ' if place else ''}{message[:1].lower()}{message[1:]}.") from error


def _check_presence(question: Question, where: str) -> None:
    video = question.video if isinstance(question.video, tuple) else (question.video,) if question.video else ()
    for source in (*question.images, *video):
        if isinstance(source, (str, Path)) and not is_file(source):
            raise InputError(f"{where}: there is no file at {source}.")


def _write_question(question: Question, index: int, directory: Path) -> QuestionLine:
    # Identifiers are the user's own words, file names are not.
    safe = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", question.identifier) is not None
    name = question.identifier if safe else f"question-{index:04d}"
    pictures = {"images": _write_pictures(question.images, name, directory)} if question.images else {}
    video = frames = None
    if isinstance(question.video, tuple):
        frames = _write_pictures(question.video, f"{name}-frame", directory)
    elif question.video is not None:
        source = Path(question.video)
        video = f"{PICTURES_DIRECTORY}/{name}{source.suffix}"
        shutil.copyfile(source, directory / video)
    return QuestionLine(
        id=question.identifier,
        task=question.task,
        question=question.question,
        options=list(question.options),
        answer=question.answer,
        video=video,
        frames=frames,
        **pictures,
    )


def _write_pictures(sources: Sequence[ImageSource], name: str, directory: Path) -> list[str]:
    paths = []
    for number, source in enumerate(sources, 1):
        path = f"{PICTURES_DIRECTORY}/{name}-{number}.png"
        Image.fromarray(load_picture(source)).save(directory / path)
        paths.append(path)
    return paths
