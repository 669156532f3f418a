"""Matches patterns of layer names in linear time, whatever the pattern.

GPTQModel keeps regular expressions in quantize_config.json (`dynamic`) and matches them with Python's `re`, which takes
exponential time for some. Here a pattern is matched by the set of all places that it can have reached, which is what
Thompson's algorithm does (Regular Expression Search Algorithm, CACM 1968): nothing is tried twice.
"""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_letters, digits

MAX_LENGTH = 512
_MAX_DEPTH = 4
_SPECIAL = set("()[]{}*+?|^$\\.")
_ESCAPES = {"d": frozenset(digits), "w": frozenset(ascii_letters + digits + "_")}

Ends = Callable[[str, frozenset[int]], frozenset[int]]
"""Takes a name and the places where a part of a pattern may begin, and returns the places where it may end."""


class NamePattern:
    r"""A regular expression of literals, `.`, `\d`, `\w`, classes, groups, `|`, `*`, `+`, `?`, `^` and `$`.

    Args:
        text: The pattern.

    Raises:
        ValueError: The pattern has something else; the message says what.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"it is longer than {MAX_LENGTH} characters")
        self._text, self._position = text, 0
        self._ends = self._alternatives(_MAX_DEPTH)
        if self._position < len(text):
            raise ValueError("a parenthesis closes what none opened")

    def matches(self, name: str) -> bool:
        """Whether the pattern matches at the beginning of a name, as `re.match` does.

        Args:
            name: The name of a layer.
        """
        return bool(self._ends(name, frozenset({0})))

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self, *wanted: str) -> bool:
        for text in wanted:
            if self._text.startswith(text, self._position):
                self._position += len(text)
                return True
        return False

    def _alternatives(self, depth: int) -> Ends:
        if depth == 0:
            raise ValueError(f"its groups are nested more than {_MAX_DEPTH - 1} deep")
        choices = [self._sequence(depth)]
        while self._take("|"):
            choices.append(self._sequence(depth))
        return lambda name, starts: frozenset().union(*(choice(name, starts) for choice in choices))

    def _sequence(self, depth: int) -> Ends:
        parts: list[Ends] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(depth))

        def ends(name: str, starts: frozenset[int]) -> frozenset[int]:
            for part in parts:
                starts = part(name, starts)
            return starts

        return ends

    def _repeated(self, depth: int) -> Ends:
        part = self._atom(depth)
        mark = self._peek()
        if mark not in ("*", "+", "?") or not mark:
            return part
        self._position += 1
        # A lazy repetition fits the same names. A possessive one and a repeated repetition do not.
        self._take("?")
        if self._peek() in ("*", "+", "?", "{") and self._peek():
            raise ValueError("it repeats a repetition")

        def many(name: str, starts: frozenset[int]) -> frozenset[int]:
            reached, new = starts, starts
            while new:
                new = part(name, new) - reached
                reached |= new
            return reached

        if mark == "*":
            return many
        if mark == "+":
            return lambda name, starts: many(name, part(name, starts))
        return lambda name, starts: starts | part(name, starts)

    def _atom(self, depth: int) -> Ends:
        if self._take("(?:", "("):
            if self._peek() == "?":
                raise ValueError("it has a group that begins with (?")
            part = self._alternatives(depth - 1)
            if not self._take(")"):
                raise ValueError("a parenthesis is not closed")
            return part
        if self._take("^"):
            return lambda name, starts: starts & {0}
        if self._take("$"):
            return lambda name, starts: starts & {len(name)}
        if self._take("."):
            return _one(lambda character: character != "\n")
        if self._take("["):
            return self._class()
        return _one(self._characters().__contains__)

    def _class(self) -> Ends:
        negated = self._take("^")
        members: set[str] = set()
        while not self._take("]"):
            if self._peek() in ("", "[") or self._text.startswith("--", self._position):
                raise ValueError("a class of characters is not closed, or has another inside")
            first = self._characters(in_class=True)
            if self._peek() == "-" and not self._text.startswith("-]", self._position):
                self._position += 1
                last = self._characters(in_class=True)
                if len(first) != 1 or len(last) != 1 or min(first) > min(last):
                    raise ValueError("a range of characters is empty")
                first = frozenset(map(chr, range(ord(min(first)), ord(min(last)) + 1)))
            members |= first
        if not members:
            raise ValueError("a class of characters is empty")
        return _one(lambda character: (character in members) != negated)

    def _characters(self, *, in_class: bool = False) -> frozenset[str]:
        character = self._peek()
        self._position += 1
        if character == "\\":
            escaped = self._peek()
            self._position += 1
            if escaped in _ESCAPES:
                return _ESCAPES[escaped]
            if not escaped or escaped.isalnum():
                raise ValueError(f"it has \\{escaped}")
            return frozenset(escaped)
        if not character or (character in _SPECIAL and not in_class):
            raise ValueError(f"it has {character!r} at an unexpected place" if character else "it ends too early")
        return frozenset(character)


def _one(fits: Callable[[str], bool]) -> Ends:
    return lambda name, starts: frozenset(place + 1 for place in starts if place < len(name) and fits(name[place]))
