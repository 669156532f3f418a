"""The four-step answer of --think: SUMMARY, CAPTION, REASONING and CONCLUSION, whole or as it streams."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Step = Literal["summary", "caption", "reasoning", "conclusion"]

STEPS: tuple[Step, ...] = ("summary", "caption", "reasoning", "conclusion")

_STEP_OF_TAG: dict[str, tuple[Step, bool]] = {
    **{f"<{step.upper()}>": (step, True) for step in STEPS},
    **{f"</{step.upper()}>": (step, False) for step in STEPS},
}
_TAG = re.compile("|".join(map(re.escape, _STEP_OF_TAG)))


@dataclass(frozen=True)
class AnswerPiece:
    """Some text of the answer, and the step that it belongs to."""

    step: Step | None
    """The step that the text belongs to; None when it stands outside the four steps."""
    text: str


@dataclass(frozen=True)
class Answer:
    """A whole answer taken apart; a step that the model did not write is None."""

    summary: str | None
    caption: str | None
    reasoning: str | None
    conclusion: str | None
    rest: str
    """Text outside the four steps: all of it, when the model did not use them."""

    @property
    def structured(self) -> bool:
        """Whether the model wrote at least one of the steps."""
        return any(step is not None for step in (self.summary, self.caption, self.reasoning, self.conclusion))

    @property
    def final(self) -> str:
        """What answers the question: the conclusion, or else the text outside the steps."""
        return self.conclusion if self.conclusion is not None else self.rest


class AnswerParser:
    """Takes a streamed answer apart; tags may arrive in pieces.

    An opening tag begins its step whatever was open, since a model may forget to close one. A closing tag ends its own
    step; any other closing tag is dropped.
    """

    def __init__(self) -> None:
        self._step: Step | None = None
        self._held = ""

    def push(self, text: str) -> list[AnswerPiece]:
        """Takes a piece of the stream and returns the pieces that are now certain, tags removed."""
        text = self._held + text
        keep = partial_suffix(text, _STEP_OF_TAG)
        self._held = text[len(text) - keep :]
        return list(self._split(text[: len(text) - keep]))

    def finish(self) -> list[AnswerPiece]:
        """Returns what is left when the stream has ended."""
        text, self._held = self._held, ""
        return list(self._split(text))

    def _split(self, text: str) -> Iterator[AnswerPiece]:
        begin = 0
        for tag in _TAG.finditer(text):
            if tag.start() > begin:
                yield AnswerPiece(self._step, text[begin : tag.start()])
            step, opens = _STEP_OF_TAG[tag.group()]
            if opens:
                self._step = step
                yield AnswerPiece(step, "")  # the step exists even if nothing follows
            elif self._step == step:
                self._step = None
            begin = tag.end()
        if begin < len(text):
            yield AnswerPiece(self._step, text[begin:])


def parse_answer(text: str) -> Answer:
    """Takes a whole answer apart; white space around each step goes."""
    parser = AnswerParser()
    found: dict[Step | None, str] = {}
    for piece in [*parser.push(text), *parser.finish()]:
        found[piece.step] = found.get(piece.step, "") + piece.text
    steps = {step: found[step].strip() if step in found else None for step in STEPS}
    return Answer(**steps, rest=found.get(None, "").strip())


def partial_suffix(text: str, literals: Iterable[str]) -> int:
    """How many characters at the end of the text may be the beginning of one of the literals, the whole excluded."""
    longest = 0
    for literal in literals:
        for length in range(min(len(literal) - 1, len(text)), longest, -1):
            if text.endswith(literal[:length]):
                longest = length
                break
    return longest
