"""Text to token ids, and a stream of token ids back to text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from valley2_edge.errors import BundleError, InputError

END_OF_TURN = "<|im_end|>"

_REPLACEMENT_ERRORS = "replace"


class Tokenizer:
    """The checkpoint's byte-level BPE, with the control tokens kept apart from text.

    Args:
        path: `tokenizer.json`, or the directory that holds it.

    Raises:
        BundleError: The file is missing or is not a byte-level tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._source = self._path.read_text(encoding="utf-8")
            definition = json.loads(self._source)
            added = definition["added_tokens"]
            self._control_ids: dict[str, int] = {token["content"]: token["id"] for token in added}
            # A tokenizer without added tokens sees "<|im_end|>" as nine ordinary characters.
            self._text = tokenizers.Tokenizer.from_str(json.dumps({**definition, "added_tokens": []}))
        except FileNotFoundError as error:
            raise BundleError(f"{self._path} is missing.") from error
        # tokenizers raises plain Exception for a definition that it does not understand.
        except Exception as error:
            raise BundleError(f"{self._path} is not a readable tokenizer definition: {error}") from error
        self._control_contents = {id_: content for content, id_ in self._control_ids.items()}
        self._with_controls: tokenizers.Tokenizer | None = None

    def encode_text(self, text: str) -> list[int]:
        """Encodes text as text: strings that look like control tokens stay ordinary characters.

        Raises:
            InputError: The text has characters that are not Unicode.
        """
        return self._encode(self._text, text)

    def encode_with_controls(self, text: str) -> list[int]:
        """Encodes text as the reference does: strings of control tokens become control tokens.

        Raises:
            InputError: The text has characters that are not Unicode.
        """
        if self._with_controls is None:
            self._with_controls = tokenizers.Tokenizer.from_str(self._source)
        return self._encode(self._with_controls, text)

    def control_id(self, content: str) -> int:
        """The id of a control token, for example `<|im_end|>`.

        Raises:
            BundleError: The tokenizer has no such token.
        """
        if content not in self._control_ids:
            raise BundleError(f"{self._path} has no token {content}.")
        return self._control_ids[content]

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for: a control token's own text, nothing for an id without a token."""
        if token in self._control_contents:
            return self._control_contents[token].encode()
        spelled = self._text.id_to_token(token)
        if spelled is None:
            return b""
        return bytes(_BYTE_OF_CHARACTER[character] for character in spelled)

    def decode(self, tokens: Iterable[int]) -> str:
        """Decodes a whole answer, as the stream would; control tokens stay as text, `<|im_end|>` goes."""
        stream = TextStream(self)
        return "".join([*(stream.push(token) for token in tokens), stream.finish()])

    @staticmethod
    def _encode(engine: tokenizers.Tokenizer, text: str) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"The text has a character that is not Unicode at position {error.start}.") from error
        ids: list[int] = engine.encode(text, add_special_tokens=False).ids
        return ids


class TextStream:
    """Turns tokens into text as they come and never splits a character.

    Joined, the pieces equal what the reference decodes at the end: invalid UTF-8 becomes U+FFFD and the literal
    `<|im_end|>` is removed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors=_REPLACEMENT_ERRORS)
        self._held = ""

    def push(self, token: int) -> str:
        """Takes one token and returns the text that is now certain, often empty inside a character."""
        return self._release(self._decoder.decode(self._tokenizer.token_bytes(token)))

    def finish(self) -> str:
        """Returns what is left when no token follows."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _release(self, text: str) -> str:
        before, _, after = (self._held + text).rpartition(END_OF_TURN)
        keep = partial_suffix(after, (END_OF_TURN,))
        self._held = after[len(after) - keep :]
        return before.replace(END_OF_TURN, "") + after[: len(after) - keep]


def partial_suffix(text: str, literals: Iterable[str]) -> int:
    """How many characters at the end of the text may be the beginning of one of the literals, the whole excluded."""
    longest = 0
    for literal in literals:
        for length in range(min(len(literal) - 1, len(text)), longest, -1):
            if text.endswith(literal[:length]):
                longest = length
                break
    return longest


def _byte_of_character() -> dict[str, int]:
    # GPT-2's table: printable bytes are written as themselves, the others, in order, as the characters from 256 on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(hidden)})
    return table


_BYTE_OF_CHARACTER = _byte_of_character()
