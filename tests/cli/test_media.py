"""Which words of a command line, or of a conversation's line, are files and which is the question."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from valley2_edge.cli.media import (
    Media,
    mentioned_files,
    path_of,
    sort_media,
    split_line,
    split_words,
    words_of_paths,
)
from valley2_edge.errors import InputError

MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isomiso2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "two words.jpg", "it's.png", "100%.png"):
        Image.new("RGB", (6, 4)).save(name)
    Path("scan").write_bytes(Path("b.png").read_bytes())
    Path("clip.MP4").write_bytes(MP4)
    return tmp_path


def stdin_holds(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))


def png(width: int = 6, height: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_files_come_first_and_the_question_last(folder: Path) -> None:
    media, question = split_words(["a.jpg", "b.png", "Which one is cheaper?"])
    assert media == Media([Path("a.jpg"), Path("b.png")])
    assert question == "Which one is cheaper?"


def test_existing_file_without_a_suffix_is_a_picture(folder: Path) -> None:
    assert split_words(["scan", "What is it?"]) == (Media([Path("scan")]), "What is it?")


def test_files_alone_leave_the_question_open(folder: Path) -> None:
    assert split_words(["a.jpg"]) == (Media([Path("a.jpg")]), None)


@pytest.mark.parametrize(
    "question",
    ["What is a valley?", "What is in photo.jpg?", "Describe the file report.pdf", "Hello", "and/or?", "why " * 5000],
)
def test_question_alone(folder: Path, question: str) -> None:
    assert split_words([question]) == (Media(), question)


def test_nothing_at_all() -> None:
    assert split_words([]) == (Media(), None)


def test_video_is_told_by_its_content(folder: Path) -> None:
    Path("named.gif").write_bytes(MP4)
    for name in ("clip.MP4", "named.gif"):
        assert split_words([name, "What happens?"]) == (Media(video=Path(name)), "What happens?")


@pytest.mark.parametrize(
    "name",
    [
        *("typo.jpg", "IMG_2041.HEIC", "scan.pdf", "frames.apng", "photo.jxl", "movie.ts", "drawing.svg", "clip.mp4"),
        *("photo.jgp", "photos/IMG_2041", "./IMG", "~/IMG_2041", "/no/my photo.jpg"),
    ],
)
def test_mistyped_file_is_no_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    media, question = split_words([name])
    assert question is None
    with pytest.raises(InputError, match=r"there is no picture or video at .*" + Path(name).name):
        media.check()


def test_address_has_its_sentence() -> None:
    with pytest.raises(InputError, match="download the file first"):
        split_words(["https://example.org/a.jpg", "What is it?"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"%PDF-1.7\n", "PDF documents are not read"), (b"<svg></svg>", "vector drawings"), (b"Dear picture,", "b.png")],
)
def test_file_that_is_something_else_is_refused_before_anything_is_loaded(
    folder: Path, content: bytes, message: str
) -> None:
    Path("b.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Media([Path("a.jpg"), Path("b.png")]).check()


def test_directories_and_pipes_are_named_as_such(folder: Path) -> None:
    media, question = split_words([str(folder)])
    assert question is None
    with pytest.raises(InputError, match="is a directory"):
        media.check()
    if hasattr(os, "mkfifo"):
        os.mkfifo("fifo.png")
        assert stat.S_ISFIFO(Path("fifo.png").stat().st_mode)
        with pytest.raises(InputError, match="is a pipe, not a"):
            split_words(["fifo.png"])[0].check()


def test_check_says_what_each_file_is(folder: Path) -> None:
    Image.new("RGB", (1280, 720)).save("wide.png")
    turned = Image.new("RGB", (80, 60))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save("turned.jpg", exif=exif)
    assert Media([Path("wide.png"), Path("turned.jpg")]).check() == [
        "picture 1: wide.png, 1280 x 720",
        "picture 2: turned.jpg, 60 x 80",
    ]
    assert Media(video=Path("clip.MP4")).check() == ["video: clip.MP4"]
    with pytest.raises(InputError, match=r"wide\.png is too large"):
        Media([Path("wide.png")]).check(max_pixels=1000)


@pytest.mark.parametrize("words", [["What", "is", "it"], ["a.jpg", "typo", "What is it?"], ["What is it?", "a.jpg"]])
def test_more_than_one_question_is_refused(folder: Path, words: list[str]) -> None:
    with pytest.raises(InputError, match="give the files first and the question last, in quotes"):
        split_words(words)


@pytest.mark.parametrize("names", [["clip.MP4", "missing.mp4"], ["a.jpg", "clip.MP4"]])
def test_one_question_is_about_one_kind(folder: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match="one question can be about"):
        sort_media([Path(name) for name in names])


def test_stdin_is_the_question_or_a_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_holds(monkeypatch, b"\xef\xbb\xbfWhat is\nthis?\n")
    assert split_words(["a.jpg", "-"]) == (Media([Path("a.jpg")]), "What is\nthis?")
    stdin_holds(monkeypatch, png())
    media, question = split_words(["a.jpg", "-", "Which?"])
    assert (media, question) == (Media([Path("a.jpg"), png()]), "Which?")
    assert media.check()[1] == "picture 2: from stdin, 6 x 4"


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (b"What?", ["-", "What?"], "stdin holds text, which is the question"),
        (b"What?", ["-", "a.jpg"], "stdin holds text, which is the question"),
        (png(), ["-"], "stdin holds a picture: write the question behind it"),
        (MP4, ["-", "What?"], "stdin holds a video"),
        (b"%PDF-1.7", ["-", "What?"], "PDF documents are not read"),
        (b" \n", ["-"], "stdin is empty"),
        (b"\xff\xfe\x00\x01", ["-"], "neither a picture nor text"),
        (b"a" * ((1 << 20) + 1), ["-"], "too much for a question"),
        (b"", ["-", "-"], "only once"),
    ],
)
def test_stdin_that_cannot_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: list[str], message: str
) -> None:
    stdin_holds(monkeypatch, content)
    with pytest.raises(InputError, match=message):
        split_words(words)


def test_names_are_read_as_a_shell_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setenv("PICTURES", str(folder))
    for word in ("~/a.jpg", "$PICTURES/a.jpg", (folder / "a.jpg").as_uri(), str(folder / "a.jpg")):
        assert path_of(word) == folder / "a.jpg"
    assert path_of((folder / "two words.jpg").as_uri()) == folder / "two words.jpg"
    assert path_of((folder / "100%.png").as_uri()) == folder / "100%.png"
    Path("$PICTURES").mkdir()
    assert path_of("$PICTURES") == Path("$PICTURES")


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("a.jpg", ["a.jpg"]),
        ("two words.jpg", ["two words.jpg"]),
        ("'two words.jpg' b.png", ["two words.jpg", "b.png"]),
        ('"two words.jpg"', ["two words.jpg"]),
        ("it's.png", ["it's.png"]),
        ("missing's.jpg", ["missing's.jpg"]),
        ("", []),
        pytest.param(
            r"two\ words.jpg b.png",
            ["two words.jpg", "b.png"],
            marks=pytest.mark.skipif(os.name == "nt", reason="a separator"),
        ),
    ],
)
def test_typed_paths(folder: Path, text: str, files: list[str]) -> None:
    assert words_of_paths(text) == [Path(file) for file in files]


@pytest.mark.parametrize(
    ("line", "files", "question"),
    [
        ("What is it?", [], "What is it?"),
        ("a.jpg", ["a.jpg"], ""),
        ("two words.jpg", ["two words.jpg"], ""),
        ("a.jpg 'two words.jpg' which is cheaper?", ["a.jpg", "two words.jpg"], "which is cheaper?"),
        ('"scan" what does it say', ["scan"], "what does it say"),
        ("scan the room", [], "scan the room"),
        ("'tis the season", [], "'tis the season"),
        ("and/or is a word", [], "and/or is a word"),
        ("What is in a.jpg?", [], "What is in a.jpg?"),
    ],
)
def test_lines_may_begin_with_files(folder: Path, line: str, files: list[str], question: str) -> None:
    assert split_line(line) == ([Path(file) for file in files], question)


def test_dropped_files_are_addresses_of_files(folder: Path) -> None:
    address = (folder / "two words.jpg").as_uri()
    assert split_line(f"{address} what is it?") == ([folder / "two words.jpg"], "what is it?")


@pytest.mark.parametrize("line", ["a.jpg typo.png which?", "/no/photo what is it?", "foto.jpg", "~/none.jpg"])
def test_line_that_begins_with_a_missing_file_is_no_question(folder: Path, line: str) -> None:
    with pytest.raises(InputError, match="there is no picture or video at"):
        split_line(line)


def test_files_that_a_question_mentions(folder: Path) -> None:
    question = 'Is "photo.jpg" like IMG_1.HEIC, or like the clip (movie.mp4)? See 3.5 and example.org.'
    assert list(mentioned_files(question)) == ["photo.jpg", "IMG_1.HEIC", "movie.mp4"]
    assert list(mentioned_files('What is in "two words.jpg", and what in "my photo.jpg"?')) == [
        "two words.jpg",
        "photo.jpg",
    ]
    assert list(mentioned_files('What\'s "this"?')) == []


def test_named_video_is_a_video_whatever_it_ends_with() -> None:
    assert Media().joined(Media(video=Path("a.gif"))) == Media(video=Path("a.gif"))
    assert Media([Path("a.gif")]).joined(Media()) == Media([Path("a.gif")])


@pytest.mark.parametrize("first", [Media([Path("a.jpg")]), Media(video=Path("a.mp4"))])
def test_named_video_stands_alone(first: Media) -> None:
    with pytest.raises(InputError, match="one question can be about"):
        first.joined(Media(video=Path("b.gif")))


def test_readable_leaves_out_what_breaks_off(folder: Path) -> None:
    whole = Path("a.jpg")
    Image.effect_noise((300, 300), 90).save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:3000])
    both = Media([whole, Path("cut.jpg")])
    both.check()  # its header is good
    assert both.readable(10**8) == Media([whole])
