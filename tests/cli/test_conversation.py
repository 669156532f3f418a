"""The prompt loop."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from valley2_edge.cli.conversation import Conversation
from valley2_edge.cli.media import Media
from valley2_edge.errors import Cancelled, InputError


class Recorder:
    """Stands for the model."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.error: BaseException | None = None

    def ask(self, question: str, media: Media) -> None:
        self.calls.append((question, media))
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def reset(self) -> None:
        self.calls.append("reset")

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
        console = Console(file=stream, width=500)
        Conversation(recorder.ask, recorder.reset, recorder.show_stats, console, media or Media()).run()
        return stream.getvalue()

    return run


def test_questions_are_asked_until_the_input_ends(talk, recorder: Recorder) -> None:
    talk("first", "", "  second  ")
    assert recorder.calls == [("first", Media()), ("second", Media())]


def test_help_is_shown_at_the_beginning(talk) -> None:
    said = talk()
    assert all(command in said for command in ("/image PATH", "/reset", "/stats", "/quit"))


def test_media_of_the_command_line_belong_to_the_first_question(talk, recorder: Recorder) -> None:
    media = Media([Path("a.jpg")])
    talk("first", "second", media=media)
    assert recorder.calls == [("first", media), ("second", Media())]


def test_pictures_add_up_for_the_next_question(talk, recorder: Recorder, tmp_path: Path) -> None:
    files = [tmp_path / "a.jpg", tmp_path / "b c.png"]
    for file in files:
        file.touch()
    talk(*(f"/image {file}" for file in files), "both?", "more?")
    assert recorder.calls == [("both?", Media(files)), ("more?", Media())]


def test_video_command_makes_an_animated_picture_move(talk, recorder: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.gif"
    file.touch()
    said = talk(f"/video {file}", f"/image {file}", "what happens?", f"/image {file}", "what is it?", "/video")
    assert recorder.calls == [("what happens?", Media(video=file)), ("what is it?", Media([file]))]
    assert "not about both" in said
    assert "name one video" in said


def test_missing_picture_is_said_and_not_added(talk, recorder: Recorder) -> None:
    assert "no picture or video at nope.jpg" in talk("/image nope.jpg", "x")
    assert recorder.calls == [("x", Media())]


def test_commands(talk, recorder: Recorder) -> None:
    talk("/stats", "/reset", "/quit", "never asked")
    assert recorder.calls == ["stats", "reset"]


def test_unknown_command_is_not_a_question(talk, recorder: Recorder) -> None:
    assert "there is no command /foo" in talk("/foo bar")
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("error", "said"), [(Cancelled("x"), "(cancelled)"), (InputError("bad picture"), "error: bad picture")]
)
def test_conversation_outlives_a_failed_question(talk, recorder: Recorder, error: Exception, said: str) -> None:
    recorder.error = error
    assert said in talk("first", "second")
    assert len(recorder.calls) == 2
