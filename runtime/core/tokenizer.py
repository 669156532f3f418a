"""Text to token ids, and a stream of token ids back to text, by the native core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from valley2_edge.errors import BundleError, InputError
from valley2_edge.outside_files import ErrorType, read_bytes
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject
from valley2_edge.runtime.core.open_model import OpenModel

END_OF_TURN = "<|im_end|>"
MAX_TOKENIZER_BYTES = 64 << 20

_LARGEST_ID = 2**31 - 1
_SPARE_IDS = 16
"""A text rarely has more ids than bytes; where NFC makes it longer the core is asked once more."""


class Tokenizer(NativeObject):
    """The checkpoint's byte-level BPE, with the control tokens kept apart from text. Threads may share it.

    Args:
        path: `tokenizer.json`, or the directory that holds it.
        content: What the file holds, where it was read already.
        error: Class of the error to raise.

    Raises:
        BundleError: The file is missing or is not a byte-level tokenizer; or another error, as `error` says.
    """

    _model: OpenModel | None = None
    """What the handle needs as long as it is open."""

    def __init__(self, path: Path, content: bytes | None = None, error: ErrorType = BundleError) -> None:
        self._path = path / "tokenizer.json" if path.is_dir() else path
        if content is None:
            content = read_bytes(self._path, MAX_TOKENIZER_BYTES, error)
        opened = ffi.new("v2e_tokenizer **")
        name = str(self._path).encode(errors="replace").replace(b"\0", b"?")
        try:
            check(library().v2e_tokenizer_parse(content, len(content), name, opened))
        except BundleError as reason:
            raise error(str(reason)) from None
        self._handle = opened[0]
        self.largest_id = self._largest_id()
        """The ids of the tokens are the whole numbers from 0 to this one."""

    @classmethod
    def of_model(cls, model: OpenModel, path: Path) -> Tokenizer:
        """The tokenizer of an open model, which was read from this path."""
        made = cls.__new__(cls)
        made._path, made._model = path, model
        made._handle = model.part("tokenizer")
        made.largest_id = made._largest_id()
        return made

    def _largest_id(self) -> int:
        largest = ffi.new("int32_t *")
        check(library().v2e_tokenizer_largest_id(self._handle, largest))
        return int(largest[0])

    def close(self) -> None:
        """Gives back the tables; may be called again."""
        handle, self._handle = self._handle, None
        self._model = None
        library().v2e_tokenizer_close(handle or ffi.NULL)

    @property
    def handle(self) -> Any:
        """The core's `v2e_tokenizer`, which lives as long as this object."""
        return self._handle

    def encode_text(self, text: str) -> list[int]:
        """Encodes text as text: strings that look like control tokens stay ordinary characters.

        Raises:
            InputError: The text has characters that are not Unicode.
        """
        return self._encode(text, with_controls=False)

    def encode_with_controls(self, text: str) -> list[int]:
        """Encodes text as the reference does: strings of control tokens become control tokens.

        Raises:
            InputError: The text has characters that are not Unicode.
        """
        return self._encode(text, with_controls=True)

    def control_id(self, content: str) -> int:
        """The id of a control token, for example `<|im_end|>`.

        Raises:
            BundleError: The tokenizer has no such token.
        """
        found = self.find_control(content)
        if found is None:
            raise BundleError(f"{self._path} has no token {content}.")
        return found

    def find_control(self, content: str) -> int | None:
        """The id of a control token, or None where the tokenizer has no such token."""
        token, wanted = ffi.new("int32_t *"), utf8(content)
        check(library().v2e_tokenizer_find_control(self._handle, wanted, len(wanted), token))
        return int(token[0]) if token[0] >= 0 else None

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for: a control token's own text, nothing for an id without a token."""
        if not 0 <= token <= _LARGEST_ID:
            return b""
        text, size = ffi.new("const char **"), ffi.new("size_t *")
        check(library().v2e_tokenizer_token_bytes(self._handle, token, text, size))
        return bytes(ffi.buffer(text[0], size[0])) if size[0] else b""

    def decode(self, tokens: Iterable[int]) -> str:
        """Decodes a whole answer, as the stream would; control tokens stay as text, `<|im_end|>` goes."""
        stream = TextStream(self)
        return stream.push(*tokens) + stream.finish()

    def _encode(self, text: str, *, with_controls: bool) -> list[int]:
        data = utf8(text)

        def encode(ids: Any, capacity: int, count: Any) -> int:
            return int(
                library().v2e_tokenizer_encode(self._handle, data, len(data), int(with_controls), ids, capacity, count)
            )

        return read_ids(encode, len(data) + _SPARE_IDS)


class TextStream(NativeObject):
    """Turns tokens into text as they come and never splits a character.

    Joined, the pieces equal what the reference decodes at the end: invalid UTF-8 becomes U+FFFD and the literal
    `<|im_end|>` is removed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        opened = ffi.new("v2e_text_stream **")
        check(library().v2e_text_stream_open(tokenizer.handle, opened))
        self._handle = opened[0]

    def close(self) -> None:
        """Gives the stream back; may be called again."""
        handle, self._handle = self._handle, None
        library().v2e_text_stream_close(handle or ffi.NULL)

    def push(self, *tokens: int) -> str:
        """Takes tokens, mostly one, and returns the text that is now certain, often empty inside a character."""
        known = [token if 0 <= token <= _LARGEST_ID else -1 for token in tokens]
        text, size = ffi.new("const char **"), ffi.new("size_t *")
        check(library().v2e_text_stream_push(self._handle, ffi.new("int32_t[]", known), len(known), text, size))
        return _text_of(text[0], size[0])

    def finish(self) -> str:
        """Returns what is left when no token follows."""
        text, size = ffi.new("const char **"), ffi.new("size_t *")
        check(library().v2e_text_stream_finish(self._handle, text, size))
        return _text_of(text[0], size[0])


def utf8(text: str) -> bytes:
    """A text as the core takes it.

    Raises:
        InputError: The text has characters that are not Unicode.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"The text has a character that is not Unicode at position {error.start}.") from error


def read_ids(encode: Callable[[Any, int, Any], int], expected: int) -> list[int]:
    """Token ids of a call that writes as many as have room and says how many there are.

    Args:
        encode: The call: an array, its length and a pointer to the count; it returns a v2e_status.
        expected: Room for so many ids is made at first.
    """
    count = ffi.new("size_t *")
    while True:
        ids = ffi.new("int32_t[]", expected)
        check(encode(ids, expected, count))
        if count[0] <= expected:
            return list(ffi.unpack(ids, count[0]))
        expected = int(count[0])


def _text_of(pointer: Any, size: int) -> str:
    return bytes(ffi.buffer(pointer, size)).decode() if size else ""
