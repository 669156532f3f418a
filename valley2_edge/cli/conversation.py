"""The prompt loop of `valley2-edge chat` without a question."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from rich.console import Console

from valley2_edge.cli.media import Media, sort_media, words_of_paths
from valley2_edge.cli.terminal import print_line
from valley2_edge.errors import Cancelled, InputError, Valley2Error

HELP = (
    "Ask about the pictures; /image PATH adds a picture or a video to the next question, /video PATH a "
    "video or an animated picture, /reset begins anew, "
    "/stats shows what the last answer cost, /quit or end of file ends. Ctrl-C stops an answer."
)

Ask = Callable[[str, Media], None]


class Conversation:
    """Reads lines until the end of the input and gives each question to `ask`.

    Args:
        ask: Answers a question about pictures on stdout.
        reset: Forgets the questions so far.
        show_stats: Shows the statistics of the last answer.
        messages: Where all that is not an answer goes.
        media: For the first question.
    """

    def __init__(
        self, ask: Ask, reset: Callable[[], None], show_stats: Callable[[], None], messages: Console, media: Media
    ) -> None:
        self._ask = ask
        self._reset = reset
        self._show_stats = show_stats
        self._messages = messages
        self._media = media

    def run(self) -> None:
        """Runs the loop; an error ends a question, not the conversation."""
        print_line(self._messages, HELP)
        while True:
            try:
                line = read_line(self._messages)
                if line is None or line.strip() == "/quit":
                    return
                self._handle(line.strip())
            except KeyboardInterrupt:
                print_line(self._messages, "/quit or end of file ends")
            except Cancelled:
                print_line(self._messages, "(cancelled)")
            except Valley2Error as error:
                print_line(self._messages, f"valley2-edge: error: {error}")

    def _handle(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if not line:
            return
        if command == "/image":
            self._add(sort_media(words_of_paths(rest.strip())), "name a picture or a video: /image PATH")
        elif command == "/video":
            paths = words_of_paths(rest.strip())
            self._add(Media(video=paths[0] if len(paths) == 1 else None), "name one video: /video PATH")
        elif line == "/reset":
            self._reset()
            self._media = Media()
        elif line == "/stats":
            self._show_stats()
        elif line == "/help":
            print_line(self._messages, HELP)
        elif command.startswith("/"):
            raise InputError(f"there is no command {command}; /help lists them")
        else:
            media, self._media = self._media, Media()
            self._ask(line, media)

    def _add(self, added: Media, usage: str) -> None:
        if not added.files:
            raise InputError(usage)
        media = self._media.joined(added)
        media.check_presence()
        self._media = media


def read_line(messages: Console) -> str | None:
    """The next line of stdin, asked for with a prompt on a terminal; None at the end of the input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline() or None
    if not sys.stdout.isatty():
        # input() would write its prompt among the answers.
        messages.print("> ", end="")
        return sys.stdin.readline() or None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing for input())
    try:
        return input("> ")
    except EOFError:
        return None
