"""The prompt loop."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from valley2_edge.cli.conversation import COMMANDS, HELP, Conversation
from valley2_edge.cli.media import Media
from valley2_edge.errors import BudgetError, Cancelled, InputError, NumericError, OptionError


class Recorder:
    """Stands for the model. An error of `errors` ends the question of that number, counted from 0."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.errors: dict[int, BaseException] = {}
        self.kept: set[int] = set()
        """Failed questions that stay in the context all the same, as answers do that were stopped half way."""
        self.turns = 0
        self._asked = 0

    def ask(self, question: str, media: Media) -> None:
        self.calls.append((question, media))
        number, self._asked = self._asked, self._asked + 1
        if number not in self.errors or number in self.kept:
            self.turns += 1
        if number in self.errors:
            raise self.errors[number]

    def reset(self) -> None:
        self.calls.append("reset")

    def save(self, path: Path) -> None:
        self.calls.append(path)

    def show_stats(self) -> None:
        self.calls.append("stats")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def talk(recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    """Runs a conversation over given lines and returns what it said beside the answers."""

    def run(*lines: str, media: Media | None = None) -> str:
        stream = io.StringIO()
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        Conversation(recorder, Console(file=stream, width=500), media or Media()).run()
        return stream.getvalue()

    return run


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two pictures in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b c.png"):
        Image.new("RGB", (12, 7)).save(name)
    return [Path("a.jpg"), Path("b c.png")]


def test_questions_are_asked_until_the_input_ends(talk, recorder: Recorder) -> None:
    talk("first", "", "  second  ")
    assert recorder.calls == [("first", Media()), ("second", Media())]


def test_hint_is_one_line_shown_once_and_help_knows_every_command(talk) -> None:
    said = talk("one", "two")
    assert said.count("/help") == 1 and len(said.splitlines()) == 1
    assert all(command in HELP for command in COMMANDS if command != "/help")
    assert HELP in talk("/help")


def test_media_of_the_command_line_belong_to_the_first_question(talk, recorder: Recorder, pictures) -> None:
    said = talk("first", "second", media=Media(pictures[:1]))
    assert recorder.calls == [("first", Media(pictures[:1])), ("second", Media())]
    assert "picture 1: a.jpg, 12 x 7" in said


def test_pictures_add_up_for_the_next_question(talk, recorder: Recorder, pictures) -> None:
    said = talk(*(f"/image {file}" for file in pictures), "/images", "both?", "more?", "/images")
    assert recorder.calls == [("both?", Media(pictures)), ("more?", Media())]
    assert said.splitlines()[1:] == [
        "picture 1: a.jpg, 12 x 7",
        "picture 2: b c.png, 12 x 7",
        "picture 1: a.jpg, 12 x 7",
        "picture 2: b c.png, 12 x 7",
        "the next question is about no picture",
    ]


def test_clear_takes_pictures_back(talk, recorder: Recorder, pictures) -> None:
    talk("/image a.jpg", "/clear", "x")
    assert recorder.calls == [("x", Media())]


def test_video_command_makes_an_animated_picture_move(talk, recorder: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.gif"
    Image.new("RGB", (12, 7)).save(file)
    said = talk(f"/video {file}", f"/image {file}", "what happens?", f"/image {file}", "what is it?", "/video")
    assert recorder.calls == [("what happens?", Media(video=file)), ("what is it?", Media([file]))]
    assert "not about both" in said
    assert "name one video" in said


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("/image nope.jpg", "no picture or video at nope.jpg"),
        ("/image letter.png", "letter.png is not a picture"),
        ("/image a.jpg letter.png", "letter.png is not a picture"),
        ("/image .", ". is a directory"),
        ("/image", "name a picture or a video"),
        ("/video a.jpg nope.gif", "name one video"),
        ("/video a.jpg", "not about both"),
        ("https://example.org/a.jpg what?", "download the file first"),
        ("nope.jpg what?", "no picture or video at nope.jpg"),
    ],
)
def test_bad_picture_keeps_the_good_ones_before_it(talk, recorder: Recorder, pictures, bad: str, said: str) -> None:
    Path("letter.png").write_text("Dear picture,")
    assert said in talk("/image a.jpg", bad, "x")
    assert recorder.calls == [("x", Media(pictures[:1]))]


@pytest.mark.parametrize(
    "error",
    [
        OptionError("top_p", "must be between 0 and 1, not 7."),
        BudgetError("The question needs 9 positions."),
        NumericError("The siglip engine computed a NaN."),
        MemoryError(),
        InputError("bad picture"),
    ],
)
def test_pictures_outlive_a_failed_question(talk, recorder: Recorder, pictures, error: Exception) -> None:
    recorder.errors[0] = error
    said = talk("first", "second", "third", media=Media(pictures))
    assert recorder.calls == [("first", Media(pictures)), ("second", Media(pictures)), ("third", Media())]
    assert sum(line.startswith("valley2-edge: error: ") for line in said.splitlines()) == 1


def test_option_of_the_command_line_is_named_as_it_was_typed(talk, recorder: Recorder) -> None:
    recorder.errors[0] = OptionError("top_p", "must be between 0 and 1, not 7.")
    assert "error: --top-p must be between 0 and 1" in talk("first")


@pytest.mark.parametrize("error", [Cancelled("x"), KeyboardInterrupt()])
def test_pictures_outlive_a_question_that_was_stopped_before_its_answer(
    talk, recorder: Recorder, pictures, error: BaseException
) -> None:
    recorder.errors[0] = error
    said = talk("first", "second", media=Media(pictures))
    assert recorder.calls[1] == ("second", Media(pictures))
    assert "(stopped; the 2 pictures stay for the next question)" in said


def test_pictures_of_an_answer_that_was_stopped_half_way_are_in_the_conversation(
    talk, recorder: Recorder, pictures
) -> None:
    recorder.errors[0], recorder.kept = Cancelled("x"), {0}
    said = talk("first", "second", media=Media(pictures))
    assert recorder.calls[1] == ("second", Media())
    assert "the conversation keeps the question and the answer so far" in said


def test_damage_that_shows_late_spoils_one_question_only(talk, recorder: Recorder, pictures) -> None:
    Image.effect_noise((300, 300), 90).save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:3000])
    recorder.errors[0] = InputError("cut.jpg is truncated or damaged")
    said = talk("/image cut.jpg", "/image a.jpg", "first", "second")
    assert recorder.calls[1] == ("second", Media(pictures[:1]))
    assert "what cannot be read is left out" in said


def test_commands(talk, recorder: Recorder) -> None:
    talk("/stats", "/save talk.session", "/reset", "/quit", "never asked")
    assert recorder.calls == ["stats", Path("talk.session"), "reset"]


def test_failed_reset_keeps_the_pictures(talk, recorder: Recorder, pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BudgetError("no memory")

    monkeypatch.setattr(recorder, "reset", fail)
    assert "no memory" in talk("/image a.jpg", "/reset", "x")
    assert recorder.calls == [("x", Media(pictures[:1]))]


@pytest.mark.parametrize("word", ["exit", "quit", "Exit", "/exit", "/quit"])
def test_words_that_end_the_conversation(talk, recorder: Recorder, word: str) -> None:
    talk(word, "never asked")
    assert recorder.calls == []


def test_unknown_command_is_not_a_question(talk, recorder: Recorder) -> None:
    assert "there is no command /foo" in talk("/foo bar")
    assert "there is no command /imgae; did you mean /image?" in talk("/imgae a.jpg")
    assert recorder.calls == []


def test_line_that_begins_with_files_shows_them(talk, recorder: Recorder, pictures) -> None:
    said = talk("a.jpg 'b c.png' which is larger?", "a.jpg", "and this?")
    assert recorder.calls == [("which is larger?", Media(pictures)), ("and this?", Media(pictures[:1]))]
    assert "picture 2: b c.png, 12 x 7" in said


def test_file_inside_a_question_is_said_not_to_be_seen(talk, recorder: Recorder, pictures) -> None:
    said = talk("What is in a.jpg?")
    assert "note: the model does not see a.jpg; /image a.jpg adds it" in said
    assert recorder.calls == [("What is in a.jpg?", Media())]


def test_line_too_long_or_no_text_is_refused_and_the_next_one_read(talk, recorder: Recorder) -> None:
    said = talk("a" * (3 << 20), "b\udcff", "second")
    assert "a line of more than 1048576 characters is not read" in said
    assert "no text in UTF-8" in said
    assert recorder.calls == [("second", Media())]


@pytest.mark.parametrize("error", [ZeroDivisionError(), BrokenPipeError()])
def test_bug_and_a_reader_that_went_away_end_the_conversation(talk, recorder: Recorder, error: Exception) -> None:
    recorder.errors[0] = error
    with pytest.raises(type(error)):
        talk("first", "second")
