"""Which words of a command line are files and which is the question."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley2_edge.cli.media import Media, sort_media, split_words, words_of_paths
from valley2_edge.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "scan", "two words.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def test_files_come_first_and_the_question_last(folder: Path) -> None:
    media, question = split_words(["a.jpg", "b.png", "Which one is cheaper?"])
    assert media == Media([Path("a.jpg"), Path("b.png")])
    assert question == "Which one is cheaper?"


def test_existing_file_without_a_suffix_is_a_picture(folder: Path) -> None:
    assert split_words(["scan", "What is it?"]) == (Media([Path("scan")]), "What is it?")


def test_files_alone_leave_the_question_open(folder: Path) -> None:
    assert split_words(["a.jpg"]) == (Media([Path("a.jpg")]), None)


def test_question_alone(folder: Path) -> None:
    assert split_words(["What is a valley?"]) == (Media(), "What is a valley?")


def test_nothing_at_all() -> None:
    assert split_words([]) == (Media(), None)


def test_video_is_told_by_its_suffix() -> None:
    assert split_words(["clip.MP4", "What happens?"]) == (Media(video=Path("clip.MP4")), "What happens?")


def test_mistyped_picture_is_no_question() -> None:
    media, question = split_words(["typo.jpg"])
    assert question is None
    with pytest.raises(InputError, match=r"no picture or video at typo\.jpg"):
        media.check_presence()


def test_long_question_is_no_file_name() -> None:
    assert split_words(["why " * 5000])[1] == "why " * 5000


@pytest.mark.parametrize("words", [["What", "is", "it"], ["a.jpg", "typo", "What is it?"], ["What is it?", "a.jpg"]])
def test_more_than_one_question_is_refused(folder: Path, words: list[str]) -> None:
    with pytest.raises(InputError, match="give the files first and the question last, in quotes"):
        split_words(words)


def test_directory_is_named_as_such(folder: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        split_words([str(folder), "What is it?"])


@pytest.mark.parametrize("names", [["a.mp4", "b.mp4"], ["a.jpg", "b.mp4"]])
def test_one_question_is_about_one_kind(names: list[str]) -> None:
    with pytest.raises(InputError, match="one question can be about"):
        sort_media([Path(name) for name in names])


@pytest.mark.parametrize(
    ("text", "files"),
    [("a.jpg", ["a.jpg"]), ("two words.jpg", ["two words.jpg"]), ("'x y.png' b.png", ["x y.png", "b.png"]), ("", [])],
)
def test_typed_paths(folder: Path, text: str, files: list[str]) -> None:
    assert words_of_paths(text) == [Path(file) for file in files]


def test_lone_quote_is_part_of_the_name() -> None:
    assert words_of_paths("grandma's.jpg") == [Path("grandma's.jpg")]


def test_named_video_is_a_video_whatever_it_ends_with() -> None:
    assert Media().joined(Media(video=Path("a.gif"))) == Media(video=Path("a.gif"))
    assert Media([Path("a.gif")]).joined(Media()) == Media([Path("a.gif")])


@pytest.mark.parametrize("first", [Media([Path("a.jpg")]), Media(video=Path("a.mp4"))])
def test_named_video_stands_alone(first: Media) -> None:
    with pytest.raises(InputError, match="one question can be about"):
        first.joined(Media(video=Path("b.gif")))
