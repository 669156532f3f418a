"""Writes tokenizer files with the released layout of ids for synthetic checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's cut of a text before the merges: words with the character before them, digits one by one."""

RELEASED_BASE_SIZE = 151_643
"""Number of entries of Qwen2.5's base vocabulary; the special tokens follow it."""

# Each token's text, and whether it is special: first Qwen2.5's, then Valley2's (docs/valley2.md, "Tokenizer").
_ADDED_TOKENS = (
    *((text, True) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    *((f"<|{name}_{end}|>", True) for name in ("object_ref", "box", "quad", "vision") for end in ("start", "end")),
    *((f"<|{name}_pad|>", True) for name in ("vision", "image", "video")),
    *((text, False) for text in ("<tool_call>", "</tool_call>")),
    *((f"<|fim_{name}|>", False) for name in ("prefix", "middle", "suffix", "pad")),
    *((text, False) for text in ("<|repo_name|>", "<|file_sep|>")),
    *((text, True) for text in ("<im_start>", "<im_end>", "<vi_start>", "<vi_end>", "<cor>", "<\\cor>")),
    *((f"<{slash}{name}>", True) for name in ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION") for slash in ("", "/")),
)

ADDED_TOKEN_COUNT = len(_ADDED_TOKENS)
"""The vocabulary of a checkpoint is larger than the tokenizer's base by this many entries: 36."""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(directory: Path, base_size: int = RELEASED_BASE_SIZE) -> tuple[int, int]:
    """Writes tokenizer.json and tokenizer_config.json.

    The base vocabulary is the 256 bytes and then words made of letters in a fixed order: every text can be
    encoded, in a few letters a token.

    Args:
        directory: An existing directory.
        base_size: Number of entries before the special tokens, at least 256.

    Returns:
        The ids of `<|im_end|>` and `<|endoftext|>`, the stop tokens.

    Raises:
        ValueError: base_size is below 256.
    """
    if base_size < 256:
        raise ValueError(f"A byte-level vocabulary has at least 256 entries, not {base_size}.")
    merges = list(islice(_merges(), base_size - 256))
    symbols = [*byte_symbols(), *(left + right for left, right in merges)]
    return write_tokenizer_files(directory, BaseVocabulary(symbols, merges))[1]


@dataclass(frozen=True)
class BaseVocabulary:
    """A byte-level BPE without its special tokens."""

    symbols: list[str]
    """The symbol of every entry, in the order of the ids."""
    merges: list[tuple[str, str]]
    """The pairs of symbols that are merged, in order of preference."""


def write_tokenizer_files(directory: Path, base: BaseVocabulary) -> tuple[int, tuple[int, int]]:
    """Writes tokenizer.json and tokenizer_config.json; the special tokens follow the base in the released order.

    Args:
        directory: An existing directory.
        base: The vocabulary before the special tokens.

    Returns:
        The number of entries with the special tokens, and the ids of `<|im_end|>` and `<|endoftext|>`.

    Raises:
        OSError: The files cannot be written.
    """
    size = len(base.symbols)
    added = [_added_token(size + offset, text, special) for offset, (text, special) in enumerate(_ADDED_TOKENS)]
    _write_json(directory / "tokenizer.json", _tokenizer(added, base.symbols, base.merges))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(added))
    return size + len(added), (size + 2, size)


def byte_symbols() -> list[str]:
    """The printable characters that stand for the bytes in GPT-2's byte-level alphabet, in the order of the bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """An endless sequence of merges: a letter or a space, then one more letter at a time, the shortest words first."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["Ġ", *letters, *letters.upper()]
    while True:
        longer = [(word, letter) for word in words for letter in letters]
        yield from longer
        words = [word + letter for word, letter in longer]


def _added_token(identifier: int, text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": identifier, "content": text, **flags, "special": special}


def _tokenizer(added: list[dict[str, Any]], symbols: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {symbol: identifier for identifier, symbol in enumerate(symbols)},
            "merges": merges,
        },
    }


def _tokenizer_config(added: list[dict[str, Any]]) -> dict[str, Any]:
    decoder = {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added}
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": _CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
