"""From a conversation to the model's prompt, by the native core: the chat template and the places of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from valley2_edge.policy import Policy
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import enum_numbers, new_struct, number_of, struct_array
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.tokenizer import Tokenizer, read_ids, utf8

PICTURE_TEXT = "<image>"
"""How a picture is written in a rendered prompt; it is not a token."""
PICTURE_ID = -200
"""How a picture is written among token ids, as in the reference."""
THINK_SUFFIX = "\nPlease think step by step."

_POLICY_NUMBERS = enum_numbers("v2e_prompt_policy", "V2E_PROMPT_")
_ROLE_NUMBERS = enum_numbers("v2e_prompt_role", "V2E_PROMPT_")

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

    def struct(self) -> Any:
        """The layout as the core takes it."""
        return new_struct(
            "v2e_prompt_layout",
            policy=_POLICY_NUMBERS[self.policy.policy],
            strict=int(self.policy.strict),
            not_wrapped=int(not self.wrapped),
        )


def build_conversation(messages: Sequence[Message], picture_count: int, layout: Layout) -> list[Part]:
    """Lays out a whole conversation up to the point where the assistant answers; its pictures go into the first turn.

    Args:
        messages: Perhaps a system prompt, then user and assistant by turns, the user last.
        picture_count: Pictures of the conversation.
        layout: How pictures are written.

    Raises:
        InputError: The messages are in another order, or a text is not Unicode.

    Source: docs/valley2.md, "Prompt".
    """
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    structs = []
    for index, message in enumerate(messages):
        text = utf8(message.content)
        structs.append(
            new_struct(
                "v2e_prompt_message",
                role=number_of("role", message.role, _ROLE_NUMBERS),
                text=ffi.from_buffer("char[]", text),
                size=len(text),
                picture_count=picture_count if index == first else 0,
            )
        )
    given = struct_array("v2e_prompt_message", structs)
    return _parts(lambda prompt: library().v2e_prompt_open(layout.struct(), given, len(structs), prompt))


def build_first_turn(question: str, picture_count: int, system: str | None, layout: Layout) -> list[Part]:
    """Lays out the system prompt and the first question, up to the point where the assistant answers.

    Without a system prompt of the caller's it is the policy's; an empty one stays empty.
    """
    prefix = [] if system is None else [Message("system", system)]
    return build_conversation([*prefix, Message("user", question)], picture_count, layout)


def build_next_turn(question: str, picture_count: int, layout: Layout) -> list[Part]:
    """Lays out a further question: closes the answer that stands before it and puts the turn's pictures in front.

    Joined to the earlier turns it is what `build_conversation` gives, except that a turn has its own pictures.
    """
    text = utf8(question)
    return _parts(
        lambda prompt: library().v2e_prompt_open_next(layout.struct(), text, len(text), picture_count, prompt)
    )


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
    structs, length = [], 0
    for part in parts:
        kind, content = _kind_and_text(part)
        text = utf8(content)
        length += len(text) + 1
        structs.append(new_struct("v2e_prompt_part", kind=kind, text=ffi.from_buffer("char[]", text), size=len(text)))
    given = struct_array("v2e_prompt_part", structs)

    def fill(ids: Any, capacity: int, count: Any) -> int:
        call = library().v2e_prompt_encode
        return int(call(tokenizer.handle, given, len(structs), int(strict), ids, capacity, count))

    return read_ids(fill, length)


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


def _kind_and_text(part: Part) -> tuple[int, str]:
    if isinstance(part, Picture):
        return int(library().V2E_PROMPT_PICTURE), ""
    if isinstance(part, Control):
        return int(library().V2E_PROMPT_CONTROL), part.content
    return int(library().V2E_PROMPT_TEXT), part.text


def _parts(open_prompt: Callable[[Any], int]) -> list[Part]:
    """The parts of a prompt that a call of the core lays out."""
    prompt, parts, count = ffi.new("v2e_prompt **"), ffi.new("v2e_prompt_part **"), ffi.new("size_t *")
    try:
        check(open_prompt(prompt))
        check(library().v2e_prompt_parts(prompt[0], parts, count))
        return [_part(parts[0][index]) for index in range(count[0])]
    finally:
        library().v2e_prompt_close(prompt[0])


def _part(struct: Any) -> Part:
    if struct.kind == library().V2E_PROMPT_PICTURE:
        return Picture()
    text = bytes(ffi.buffer(struct.text, struct.size)).decode()
    return Control(text) if struct.kind == library().V2E_PROMPT_CONTROL else Text(text)
