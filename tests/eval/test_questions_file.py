"""Questions on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from valley2_edge.errors import InputError
from valley2_edge.eval.questions.question import Question
from valley2_edge.eval.questions_file import QuestionLine, read_questions, write_questions

LINE: dict[str, Any] = {
    "id": "price-1",
    "task": "ocr",
    "question": "What does it cost?",
    "options": ["$1", "$2", "$3", "$4"],
    "answer": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "clip.gif"):
        Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *lines: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_question_with_pictures(folder: Path) -> None:
    (question,) = read_questions(write(folder, {**LINE, "images": ["a.png", "b.png"]}))
    images = (folder / "a.png", folder / "b.png")
    assert question == Question("price-1", "ocr", "What does it cost?", ("$1", "$2", "$3", "$4"), 2, images)


def test_answer_may_be_a_letter(folder: Path) -> None:
    assert read_questions(write(folder, {**LINE, "answer": "D"}))[0].answer == 3


def test_video_is_a_file_or_its_frames(folder: Path) -> None:
    lines = [{**LINE, "video": "clip.gif"}, {**LINE, "id": "2", "frames": ["a.png", "b.png"]}]
    file, frames = read_questions(write(folder, *lines))
    assert file.video == folder / "clip.gif"
    assert frames.video == (folder / "a.png", folder / "b.png")


def test_question_needs_no_picture_and_empty_lines_are_skipped(folder: Path) -> None:
    questions = read_questions(write(folder, "", LINE, "  ", {**LINE, "id": "2", "task": "my own"}, ""))
    assert [question.task for question in questions] == ["ocr", "my own"]


def test_absolute_paths_stay_as_they_are(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    line = {**LINE, "images": [str(folder / "a.png")]}
    assert read_questions(write(elsewhere, line))[0].images == (folder / "a.png",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**LINE, "options": ["a", "b", "c"]}, "options: "),
        ({**LINE, "options": ["a", "b", "c", "a"]}, "two of the options are the same"),
        ({**LINE, "answer": 4}, "answer must be 0 to 3 or one letter of ABCD"),
        ({**LINE, "answer": "E"}, "answer must be 0 to 3 or one letter of ABCD"),
        ({**LINE, "answer": True}, "answer must be 0 to 3 or one letter of ABCD"),
        ({key: LINE[key] for key in LINE if key != "answer"}, "answer: field required"),
        ({**LINE, "id": ""}, "id: "),
        ({**LINE, "picture": "a.png"}, "picture: extra inputs"),
        ({**LINE, "images": ["a.png"], "video": "clip.gif"}, "only one of images, video and frames"),
        ({**LINE, "frames": []}, "frames is empty"),
        ({**LINE, "images": []}, "images is empty"),
        ({**LINE, "images": [], "video": "clip.gif"}, "images is empty"),
        ({**LINE, "images": ["none.png"]}, "there is no file at .*none.png"),
        ({**LINE, "frames": ["a.png", "none.png"]}, "there is no file at .*none.png"),
        ({**LINE, "video": "none.mp4"}, "there is no file at .*none.mp4"),
    ],
)
def test_bad_line_is_named_in_one_sentence(folder: Path, line: object, message: str) -> None:
    path = write(folder, {**LINE, "id": "good"}, line)
    with pytest.raises(InputError, match=rf"questions\.jsonl, line 2: {message}") as caught:
        read_questions(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no JSON", "is not readable JSON: column 1"),
        ('{"id": "cut', "is not readable JSON: column 8"),
        ("[]", "holds no JSON object"),
        ('"text"', "holds no JSON object"),
        ('{"id": "a", "id": "b"}', "the key 'id' stands twice"),
        ('{"id": "\\ud800"}', "half of a surrogate pair"),
        ('{"answer": NaN}', "NaN is not a number of JSON"),
        ("[" * 2000, "nested more than 64 levels deep"),
        ('{"answer": ' + "9" * 5000 + "}", "a number has 5000 digits"),
    ],
)
def test_line_that_is_no_object(folder: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"questions\.jsonl, line 2 .*{message}"):
        read_questions(write(folder, LINE, line))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_line_ends_of_other_systems_are_read(folder: Path, end: str) -> None:
    lines = [json.dumps({**LINE, "id": name, "question": "Wie groß?"}, ensure_ascii=False) for name in ("a", "b")]
    path = folder / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    assert [(question.identifier, question.question) for question in read_questions(path)] == [
        ("a", "Wie groß?"), ("b", "Wie groß?"),
    ]  # fmt: skip


def test_utf16_is_refused_with_what_to_do(folder: Path) -> None:
    path = folder / "questions.jsonl"
    path.write_bytes(json.dumps(LINE).encode("utf-16"))
    with pytest.raises(InputError, match=r"UTF-16.* save it as UTF-8"):
        read_questions(path)


def test_line_of_more_than_a_megabyte_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"line 2 is longer than 1,048,576 bytes"):
        read_questions(write(folder, LINE, {**LINE, "question": "x" * (1 << 20)}))


def test_repeated_id_names_both_lines(folder: Path) -> None:
    with pytest.raises(InputError, match=r'line 3: the id "price-1" is that of line 1 already'):
        read_questions(write(folder, LINE, "", LINE))


def test_files_without_questions(folder: Path) -> None:
    with pytest.raises(InputError, match="There is no file of questions"):
        read_questions(folder / "none.jsonl")
    with pytest.raises(InputError, match="has no question"):
        read_questions(write(folder, "", " "))
    with pytest.raises(InputError, match="not UTF-8"):
        read_questions(folder / "a.png")


def test_documented_lines_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith('{"id"')]
    questions = [QuestionLine.model_validate_json(line).to_question(Path()) for line in lines]
    assert [question.answer for question in questions] == [1, 1, 3]


def test_what_is_written_is_read_again(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    options = ("rot", "grün", "blau", "weiß")
    written = [
        Question("a-1", "ocr", "Farbe?", options, 1, (pixels, Image.fromarray(pixels))),
        Question("b-1", "own task", "Und hier?", options, 0, video=(pixels, folder / "a.png")),
        Question("../c 1", "ocr", "Clip?", options, 3, video=folder / "clip.gif"),
    ]
    path = write_questions(folder / "set", written)
    read = read_questions(path)
    assert [(q.identifier, q.task, q.question, q.options, q.answer) for q in read] == [
        (q.identifier, q.task, q.question, q.options, q.answer) for q in written
    ]
    for image in read[0].images:
        np.testing.assert_array_equal(np.asarray(Image.open(str(image))), pixels)
    assert isinstance(read[1].video, tuple) and len(read[1].video) == 2
    assert isinstance(read[2].video, Path) and read[2].video.read_bytes() == (folder / "clip.gif").read_bytes()
    assert all(path.parent in file.parents for file in (path.parent / "pictures").iterdir())


def test_failed_writing_leaves_nothing_behind(folder: Path) -> None:
    broken = Question("x", "ocr", "?", ("a", "b", "c", "d"), 0, (folder / "a.png", folder / "none.png"))
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=r"none\.png"):
        write_questions(folder / "set", [broken])
    assert sorted(folder.iterdir()) == before


def test_existing_directory_is_not_touched(folder: Path) -> None:
    (folder / "set").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_questions(folder / "set", [])
