"""The prompt loop of `valley2-edge chat` without a question."""

from __future__ import annotations

import contextlib
import difflib
import sys
from pathlib import Path
from typing import Protocol

from rich.console import Console

from valley2_edge.cli.failure import sentence_of
from valley2_edge.cli.media import Media, mentioned_files, path_of, sort_media, split_line, words_of_paths
from valley2_edge.cli.streams import accept_all_bytes, read_text_line
from valley2_edge.cli.wrapping import print_prose
from valley2_edge.errors import Cancelled, InputError
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.text_limits import check_text

HINT = "Ask about the pictures. /image PATH adds one, /help lists more, Ctrl-D ends."
HELP = """\
/image PATH...  adds pictures or a video to the next question
/video PATH     adds a video, or an animated picture that shall move
/images         lists what the next question is about
/clear          takes that back
/reset          begins a new conversation
/save FILE      writes the conversation to a file, for --resume
/stats          shows what the last answer cost
/exit, /quit    end, as do exit, quit, Ctrl-D and Ctrl-C twice
A line may begin with files, as when they are dropped on the terminal:
photo.jpg What is this?"""
COMMANDS = ("/image", "/video", "/images", "/clear", "/reset", "/save", "/stats", "/help", "/exit", "/quit")
_ENDS = frozenset({"/exit", "/quit", "exit", "quit"})


class Talk(Protocol):
    """What a conversation is held with."""

    @property
    def turns(self) -> int:
        """Questions that are in the model's context, with their pictures."""

    def ask(self, question: str, media: Media) -> None:
        """Answers a question on stdout."""

    def reset(self) -> None:
        """Forgets the questions so far."""

    def save(self, path: Path) -> None:
        """Writes the questions and answers to a file."""

    def show_stats(self) -> None:
        """Shows what the last answer cost."""


class Conversation:
    """Reads lines until the end of the input and asks each question.

    Pictures wait until a question about them is in the model's context: after one that failed, or that was stopped
    before its answer began, they are still there for the next.

    Args:
        talk: What answers the questions.
        messages: The console for everything that is not an answer.
        media: Pictures or a video for the first question.
        max_picture_pixels: Width times height of a picture at most.
    """

    def __init__(
        self, talk: Talk, messages: Console, media: Media, max_picture_pixels: int = DEFAULT_MAX_PICTURE_PIXELS
    ) -> None:
        self._talk = talk
        self._messages = messages
        self._media = media
        self._max_pixels = max_picture_pixels

    def run(self) -> None:
        """Runs the loop; an error ends a question, not the conversation."""
        accept_all_bytes()
        self._say(HINT)
        if self._media:
            self._list()
        ending = False
        while True:
            try:
                line = read_line(self._messages)
            except KeyboardInterrupt:
                if ending:
                    return
                ending = True
                self._say("Ctrl-C once more ends, and so does Ctrl-D")
                continue
            except InputError as error:
                self._say_failure(error)
                continue
            ending = False
            if line is None or line.strip().lower() in _ENDS:
                return
            try:
                self._handle(line.strip())
            except KeyboardInterrupt:
                self._say("(stopped)")
            except Exception as error:
                self._say_failure(error)

    def _handle(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if not line:
            return
        if command == "/image":
            self._add(sort_media(words_of_paths(rest)), "name a picture or a video: /image PATH")
        elif command == "/video":
            paths = words_of_paths(rest)
            self._add(Media(video=paths[0] if len(paths) == 1 else None), "name one video: /video PATH")
        elif command == "/save":
            if not rest:
                raise InputError("name a file: /save FILE")
            self._talk.save(path_of(rest))
        elif line == "/images":
            self._list()
        elif line == "/clear":
            self._media = Media()
            self._list()
        elif line == "/reset":
            self._talk.reset()
            self._media = Media()
            self._say("a new conversation begins")
        elif line == "/stats":
            self._talk.show_stats()
        elif line == "/help":
            self._say(HELP)
        else:
            self._take(line, command)

    def _take(self, line: str, command: str) -> None:
        """A question, with the files that it begins with, or an unknown command."""
        if command.startswith("/") and "/" not in command[1:] and "." not in command and not Path(command).exists():
            near = difflib.get_close_matches(command, COMMANDS, 1)
            advice = f"did you mean {near[0]}?" if near else "/help lists them"
            raise InputError(f"there is no command {command}; {advice}")
        files, question = split_line(line)
        if files:
            self._add(sort_media(files), "")
        if question:
            for name in mentioned_files(question):
                self._say(f"note: the model does not see {name}; /image {name} adds it to the next question")
            self._ask(question)

    def _ask(self, question: str) -> None:
        turns, stopped = self._talk.turns, False
        try:
            self._talk.ask(question, self._media)
        except (Cancelled, KeyboardInterrupt):
            stopped = True
        except Exception as error:
            self._say_failure(error)
            if self._talk.turns == turns:
                self._drop_unreadable()
        asked = self._talk.turns > turns
        if stopped:
            self._say_stopped(asked)
        if asked:
            self._media = Media()  # they are in the context now, whatever became of the answer

    def _say_stopped(self, asked: bool) -> None:
        if asked:
            self._say("(stopped; the conversation keeps the question and the answer so far)")
        elif self._media:
            kept = "the video stays" if self._media.video else _kept(len(self._media.pictures))
            self._say(f"(stopped; {kept} for the next question)")
        else:
            self._say("(stopped; the question is forgotten)")

    def _drop_unreadable(self) -> None:
        """A picture whose damage showed only at its end would spoil every further question."""
        readable = self._media.readable(self._max_pixels)
        if readable != self._media:
            self._media = readable
            self._say("what cannot be read is left out of the next question")
            self._list()

    def _add(self, added: Media, usage: str) -> None:
        if not added:
            raise InputError(usage)
        media = self._media.joined(added)
        lines = media.check(self._max_pixels)
        self._media = media
        for line in lines[-max(len(added.pictures), 1) :]:
            self._say(line)

    def _list(self) -> None:
        for line in self._media.check(self._max_pixels) or ["the next question is about no picture"]:
            self._say(line)

    def _say(self, text: str) -> None:
        print_prose(self._messages, text)

    def _say_failure(self, error: Exception) -> None:
        """Says what a mistake was; a bug, or a reader of stdout that went away, ends the conversation."""
        sentence = sentence_of(error)
        if sentence is None or isinstance(error, BrokenPipeError):
            raise error
        self._say(f"valley2-edge: error: {sentence}")


def _kept(count: int) -> str:
    return "the picture stays" if count == 1 else f"the {count} pictures stay"


def read_line(messages: Console) -> str | None:
    """The next line of stdin, asked for with a prompt on a terminal; None at the end of the input.

    Raises:
        InputError: stdin is closed, or the line is too long or no text.
    """
    if not sys.stdin.isatty():
        return read_text_line(sys.stdin)
    if not sys.stdout.isatty():
        # input() would write its prompt among the answers.
        messages.print("> ", end="")
        return read_text_line(sys.stdin)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing for input())
    try:
        line = input("> ")
        check_text(line, "The line")
        return line
    except EOFError:
        sys.stdout.write("\n")
        return None
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        raise
