"""From a conversation to the model's prompt: the chat template, its control tokens and the places of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from valley2_edge.errors import InputError
from valley2_edge.options import PolicyName
from valley2_edge.policy import Policy
from valley2_edge.tokenizer import END_OF_TURN, Tokenizer

START_OF_TURN = "<|im_start|>"
PICTURE_START = "<im_start>"
PICTURE_END = "<im_end>"
PICTURE_TEXT = "<image>"
"""How a picture is written in a rendered prompt; it is not a token."""
PICTURE_ID = -200
"""How a picture is written among token ids, as in the reference."""
THINK_SUFFIX = "\nPlease think step by step."

DEFAULT_SYSTEM: dict[PolicyName, str] = {
    "hub": "You are a helpful assistant.",
    "repo": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
}
_PICTURE_SEPARATOR: dict[PolicyName, str] = {"hub": " ", "repo": ""}

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """What one side said."""

    role: Role
    content: str


@dataclass(frozen=True)
class Text:
    """Part of a prompt: ordinary characters."""

    text: str


@dataclass(frozen=True)
class Control:
    """Part of a prompt: a control token, by its content."""

    content: str


@dataclass(frozen=True)
class Picture:
    """Part of a prompt: the place of the next picture."""


Part = Text | Control | Picture


@dataclass(frozen=True)
class Layout:
    """How pictures are written into a turn."""

    policy: Policy
    wrapped: bool = True
    """Each picture stands between `<im_start>` and `<im_end>` (config.json's `use_special_start_end_token`)."""

    def user(self, text: str, picture_count: int) -> list[Part]:
        """A user's text with its pictures in front."""
        if self.policy.strict:
            if picture_count and PICTURE_TEXT not in text:
                separator = _PICTURE_SEPARATOR[self.policy.policy]
                text = separator.join([PICTURE_TEXT] * picture_count) + "\n" + text
            return self.interpreted(text, picture_count)
        parts: list[Part] = []
        for index in range(picture_count):
            parts += [Text(_PICTURE_SEPARATOR[self.policy.policy])] if index else []
            parts += self._picture()
        return [*parts, Text(("\n" if picture_count else "") + text)]

    def interpreted(self, text: str, picture_count: int) -> list[Part]:
        """A text in which strict reads `<image>` as a picture's place: repo the first ones, hub all."""
        if not self.policy.strict:
            return [Text(text)]
        first, *rest = text.split(PICTURE_TEXT)
        limit = min(picture_count, len(rest)) if self.policy.policy == "repo" else len(rest)
        parts: list[Part] = [Text(first)]
        for index, piece in enumerate(rest):
            parts += [*(self._picture() if index < limit else []), Text(piece)]
        return parts

    def system(self, given: str | None) -> str:
        """The system prompt: the caller's, an empty one too, or else the policy's.

        DIFFERS: the repository's chat class loses the caller's system prompt; only strict does so here.
        """
        lost = self.policy.strict and self.policy.policy == "repo"
        return DEFAULT_SYSTEM[self.policy.policy] if given is None or lost else given

    def _picture(self) -> list[Part]:
        return [Control(PICTURE_START), Picture(), Control(PICTURE_END)] if self.wrapped else [Picture()]


def build_conversation(messages: Sequence[Message], picture_count: int, layout: Layout) -> list[Part]:
    """Lays out a whole conversation up to the point where the assistant answers; its pictures go into the first turn.

    Args:
        messages: Perhaps a system prompt, then user and assistant by turns, the user last.
        picture_count: Pictures of the conversation.
        layout: How pictures are written.

    Raises:
        InputError: The messages are in another order.

    Source: docs/valley2.md, "Prompt".
    """
    given = messages[0].content if messages and messages[0].role == "system" else None
    turns = messages if given is None else messages[1:]
    if len(turns) % 2 == 0 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise InputError("A conversation is user and assistant by turns and ends with the user.")
    parts = _message("system", [Text(layout.system(given))])
    for index, turn in enumerate(turns):
        content = layout.interpreted(turn.content, picture_count) if index else layout.user(turn.content, picture_count)
        parts += _message(turn.role, content)
    return [*parts, *_open_answer()]


def build_first_turn(question: str, picture_count: int, system: str | None, layout: Layout) -> list[Part]:
    """Lays out the system prompt and the first question, up to the point where the assistant answers."""
    prefix = [] if system is None else [Message("system", system)]
    return build_conversation([*prefix, Message("user", question)], picture_count, layout)


def build_next_turn(question: str, picture_count: int, layout: Layout) -> list[Part]:
    """Lays out a further question: closes the answer that stands before it and puts the turn's pictures in front.

    Joined to the earlier turns it is what `build_conversation` gives, except that a turn has its own pictures.
    """
    closing: list[Part] = [Control(END_OF_TURN), Text("\n")]
    return [*closing, *_message("user", layout.user(question, picture_count)), *_open_answer()]


def with_thinking(question: str) -> str:
    """The question with the request for a four-step answer."""
    return question + THINK_SUFFIX


def render(parts: Sequence[Part]) -> str:
    """The prompt as one string, for people and for comparison with the reference."""
    return "".join(
        part.text if isinstance(part, Text) else part.content if isinstance(part, Control) else PICTURE_TEXT
        for part in parts
    )


def encode(parts: Sequence[Part], tokenizer: Tokenizer, strict: bool = False) -> list[int]:
    """Token ids of a prompt, with `PICTURE_ID` where a picture stands.

    Control tokens are put in by id, so that the same characters in somebody's text stay text. DIFFERS: the reference
    tokenises one string, in which the user can write control tokens; strict does the same.

    Raises:
        InputError: The text is not Unicode.
        BundleError: The tokenizer lacks a control token.
    """
    if strict:
        return _encode_rendered(render(parts), tokenizer)
    ids: list[int] = []
    run = ""
    for part in parts:
        if isinstance(part, Text):
            run += part.text  # neighbours are encoded together: a token may span them
            continue
        ids += tokenizer.encode_text(run)
        run = ""
        ids.append(tokenizer.control_id(part.content) if isinstance(part, Control) else PICTURE_ID)
    return ids + tokenizer.encode_text(run)


def encode_answer(answer: str, tokenizer: Tokenizer, stop_token: int) -> list[int]:
    """Token ids of an answer as the model gives it: tags of the four steps are control tokens, a stop token ends it.

    Raises:
        InputError: The text is not Unicode.
    """
    return [*tokenizer.encode_with_controls(answer), stop_token]


def split_at_pictures(ids: Sequence[int]) -> list[list[int]]:
    """The runs of text around the pictures: one more than there are pictures, empty ones included."""
    runs: list[list[int]] = [[]]
    for token in ids:
        if token == PICTURE_ID:
            runs.append([])
        else:
            runs[-1].append(token)
    return runs


def _message(role: Role, content: Sequence[Part]) -> list[Part]:
    return [Control(START_OF_TURN), Text(f"{role}\n"), *content, Control(END_OF_TURN), Text("\n")]


def _open_answer() -> list[Part]:
    return [Control(START_OF_TURN), Text("assistant\n")]


def _encode_rendered(text: str, tokenizer: Tokenizer) -> list[int]:
    # The reference cuts after every closed message and at every picture and tokenises the pieces one by one.
    separator = f"{END_OF_TURN}\n"
    rounds = text.split(separator)
    ids: list[int] = []
    for index, part in enumerate(rounds):
        if index and not part:
            continue  # the reference skips an empty piece, its separator with it
        message = part + (separator if index + 1 < len(rounds) else "")
        for place, piece in enumerate(message.split(PICTURE_TEXT)):
            ids += [PICTURE_ID] if place else []
            ids += tokenizer.encode_with_controls(piece)
    return ids
