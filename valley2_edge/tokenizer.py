"""Text to token ids, and a stream of token ids back to text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from valley2_edge.bundle import TOKENIZER_FILE, Bundle
from valley2_edge.errors import BundleError, InputError
from valley2_edge.outside_files import ErrorType, decode, json_object, parse_json, read_bytes, shown

END_OF_TURN = "<|im_end|>"

_REPLACEMENT_ERRORS = "replace"


MAX_TOKENIZER_BYTES = 64 << 20
_MAX_VALUES = 2_000_000
"""Most values of a tokenizer's file; Qwen2.5's holds 600,000."""
_MAX_TOKENS = 1 << 22
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's cut of a text before the merges: words with the character before them, digits one by one."""

_NORMALIZER = {"type": "NFC"}
_PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
# Key of a BPE model: the values that are supported.
_MODEL: dict[str, tuple[object, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (False,),
    "byte_fallback": (False,),
    "ignore_merges": (False, True),
}


class Tokenizer:
    """The checkpoint's byte-level BPE, with the control tokens kept apart from text.

    Args:
        path: `tokenizer.json`, or the directory that holds it.
        content: What the file holds, where it was read already.
        error: Class of the error to raise.

    Raises:
        BundleError: The file is missing or is not a byte-level tokenizer; or another error, as `error` says.
    """

    def __init__(self, path: Path, content: bytes | None = None, error: ErrorType = BundleError) -> None:
        self._path = path / "tokenizer.json" if path.is_dir() else path
        if content is None:
            content = read_bytes(self._path, MAX_TOKENIZER_BYTES, error)
        source = decode(content, str(self._path), error)
        definition = json_object(parse_json(source, str(self._path), error, max_values=_MAX_VALUES), self._path, error)
        try:
            definition = _canonical(definition)
            self._control_ids, self.largest_id = _control_ids(definition)
            self._source = json.dumps(definition)
            # A tokenizer without added tokens sees "<|im_end|>" as nine ordinary characters.
            self._text = _engine(json.dumps({**definition, "added_tokens": []}))
        except ValueError as reason:
            raise error(f"{self._path} is not a readable tokenizer definition: {reason}") from reason
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
            self._with_controls = _engine(self._source)
        return self._encode(self._with_controls, text)

    def control_id(self, content: str) -> int:
        """The id of a control token, for example `<|im_end|>`.

        Raises:
            BundleError: The tokenizer has no such token.
        """
        if content not in self._control_ids:
            raise BundleError(f"{self._path} has no token {content}.")
        return self._control_ids[content]

    def find_control(self, content: str) -> int | None:
        """The id of a control token, or None where the tokenizer has no such token."""
        return self._control_ids.get(content)

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


def bundle_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle, read from the file that was checked.

    Raises:
        BundleError: The file has changed since, is no tokenizer, or has tokens that the decoder lacks.
    """
    path = bundle.path(TOKENIZER_FILE)
    tokenizer = Tokenizer(path, bundle.read(TOKENIZER_FILE, MAX_TOKENIZER_BYTES))
    vocabulary = bundle.manifest.architecture.decoder.vocab_size
    if tokenizer.largest_id >= vocabulary:
        raise BundleError(f"{path} has a token {tokenizer.largest_id}, but the decoder has {vocabulary} tokens only")
    return tokenizer


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


def _canonical(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition with nothing in it that this project has not looked at.

    The library behind it ends the process for some definitions that it does not expect.

    Raises:
        ValueError: It is no tokenizer of a Qwen2.
    """
    model, added = definition.get("model"), definition.get("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(added, list):
        raise ValueError("it has no vocabulary")
    if definition.get("normalizer") != _NORMALIZER:
        raise ValueError(f"its normalizer {shown(definition.get('normalizer'))} is not NFC")
    if _with_offsets(definition.get("pre_tokenizer")) != _PRE_TOKENIZER:
        raise ValueError(f"its pre_tokenizer {shown(definition.get('pre_tokenizer'))} does not cut as Qwen2's")
    for key, value in model.items():
        if key not in ("vocab", "merges") and not any(value is one or value == one for one in _MODEL.get(key, ())):
            raise ValueError(f"model.{shown(key)[1:-1]} = {shown(value)} is not supported")
    return {
        "version": "1.0",
        "added_tokens": [_added_token(token) for token in added],
        "normalizer": _NORMALIZER,
        "pre_tokenizer": _PRE_TOKENIZER,
        # Whoever calls the reference's tokenizer switches truncation and padding off; templates are not used.
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "ignore_merges": bool(model.get("ignore_merges", False)),
            "vocab": _vocabulary(model["vocab"]),
            "merges": _merges(model.get("merges"), model["vocab"]),
        },
    }


def _added_token(token: object) -> dict[str, Any]:
    content, number = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
    if not isinstance(token, dict) or not isinstance(content, str) or not content or type(number) is not int:
        raise ValueError(f"the added token {shown(token)} has no content or no whole number as its id")
    flags = {flag: token.get(flag, False) for flag in _TOKEN_FLAGS}
    if any(type(value) is not bool for value in flags.values()):
        raise ValueError(f"the added token {shown(content)} has a flag that is neither true nor false")
    return {"id": number, "content": content, **flags}


def _vocabulary(vocabulary: dict[str, Any]) -> dict[str, int]:
    if not vocabulary or any(type(number) is not int for number in vocabulary.values()):
        raise ValueError("a token id is no whole number")
    if strange := set("".join(vocabulary)) - _BYTE_OF_CHARACTER.keys():
        raise ValueError(f"its vocabulary is not of bytes: it has the character {shown(min(strange))}")
    return vocabulary


def _merges(merges: object, vocabulary: dict[str, int]) -> list[list[str]]:
    if not isinstance(merges, list):
        raise ValueError("it has no merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        two = isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        if not two or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise ValueError(f"the merge {shown(pair)} is not of two tokens into a third")
    return pairs


def _control_ids(definition: dict[str, Any]) -> tuple[dict[str, int], int]:
    """The ids of the added tokens by their text, and the largest id of all."""
    vocabulary: dict[str, int] = definition["model"]["vocab"]
    added = definition["added_tokens"]
    controls = {token["content"]: token["id"] for token in added}
    numbers = sorted([*vocabulary.values(), *(number for text, number in controls.items() if text not in vocabulary)])
    if len(controls) < len(added) or any(vocabulary.get(text, number) != number for text, number in controls.items()):
        raise ValueError("a token stands in it twice")
    # The library would number added tokens behind the others anew.
    if numbers != list(range(len(numbers))) or len(numbers) > _MAX_TOKENS:
        raise ValueError(f"its token ids are not the whole numbers from 0 on, each once, and at most {_MAX_TOKENS}")
    return controls, numbers[-1]


def _with_offsets(part: Any) -> Any:
    """A pre-tokenizer with `trim_offsets`, on which no id depends, switched on."""
    if isinstance(part, dict):
        return {key: True if key == "trim_offsets" else _with_offsets(value) for key, value in part.items()}
    return [_with_offsets(one) for one in part] if isinstance(part, list) else part


def _engine(definition: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(definition)
    # tokenizers raises plain Exception for a definition that it does not understand, and panics, which is no
    # Exception, for some.
    except BaseException as reason:
        if isinstance(reason, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
            raise
        raise ValueError(str(reason)) from reason


def _byte_of_character() -> dict[str, int]:
    # GPT-2's table: printable bytes are written as themselves, the others, in order, as the characters from 256 on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(hidden)})
    return table


_BYTE_OF_CHARACTER = _byte_of_character()
