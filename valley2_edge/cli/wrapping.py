"""An answer on a terminal: lines are broken at words, while the text is still being made."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console

from valley2_edge.cli.printable import printable
from valley2_edge.cli.terminal import print_line

MAX_COLUMNS = 80
"""The longest line of prose, however wide the terminal is."""
_FENCE = "```"
_WORD = re.compile(r"\n|[^\S\n]+|\S+")


class WordWrapper:
    """Writes text so that no word crosses the right margin.

    Lines of code between fences, lines that begin with four spaces or a tab, and words that are longer than a line stay
    as they are. Chinese and Japanese letters may stand at the beginning of a line without a space before them.

    Args:
        write: Takes the text for the terminal.
        columns: Cells of a line.
    """

    def __init__(self, write: Callable[[str], None], columns: int) -> None:
        self._write = write
        self._columns = columns
        self._held = ""
        """The beginning of a word, of white space, or of a line whose kind is not known yet."""
        self._column = 0
        self._space = ""
        """White space before the next word: it is dropped where the line is broken."""
        self._line = ""
        """The first characters of this line."""
        self._in_code = False

    def push(self, text: str) -> None:
        """Takes a piece of the text; what may still grow is held back."""
        text = self._held + text
        complete = max(text.rfind(" "), text.rfind("\n"), text.rfind("\t")) + 1
        wide = max((place for place, letter in enumerate(text) if _may_begin_line(letter)), default=0)
        complete = max(complete, wide)
        self._held = text[complete:]
        self._take(text[:complete])

    def finish(self) -> None:
        """Writes what was held back."""
        text, self._held = self._held, ""
        self._take(text)
        self._write(self._space)
        self._space = ""

    def _take(self, text: str) -> None:
        for part in _WORD.findall(printable(text)):
            if part == "\n":
                self._end_line()
            elif part.isspace():
                self._space += part
            else:
                for word in _split_at_wide(part):
                    self._put(word)

    def _end_line(self) -> None:
        if self._line.strip().startswith(_FENCE):
            self._in_code = not self._in_code
        self._write("\n")
        self._column, self._space, self._line = 0, "", ""

    def _put(self, word: str) -> None:
        space, self._space = self._space, ""
        width = cell_len(space) + cell_len(word)
        prose = not (self._in_code or (self._line + space).startswith(("    ", "\t")))
        if prose and self._line and self._column + width > self._columns and cell_len(word) <= self._columns:
            self._write("\n")
            space, width, self._column = "", cell_len(word), 0
        if len(self._line) < len(_FENCE) + 4:
            self._line += space + word
        self._write(space + word)
        self._column += width


def wrapped(text: str, columns: int) -> str:
    """The whole of a text with its lines broken at words."""
    parts: list[str] = []
    wrapper = WordWrapper(parts.append, columns)
    wrapper.push(text)
    wrapper.finish()
    return "".join(parts)


def print_prose(console: Console, text: str) -> None:
    """Prints sentences, with their lines broken at words on a terminal, and elsewhere as they are."""
    print_line(console, wrapped(text, min(console.width, MAX_COLUMNS)) if console.is_terminal else text)


def _split_at_wide(word: str) -> list[str]:
    """The pieces of a word between which a line may be broken."""
    pieces: list[str] = []
    begin = 0
    for place, letter in enumerate(word):
        if place > begin and _may_begin_line(letter):
            pieces.append(word[begin:place])
            begin = place
    return [*pieces, word[begin:]]


def _may_begin_line(letter: str) -> bool:
    """Whether a line may be broken before a letter that follows another without a space."""
    return unicodedata.east_asian_width(letter) in "WF" and unicodedata.category(letter) == "Lo"
