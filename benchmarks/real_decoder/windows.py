"""Cuts documents into windows to measure on, and into calibration lines from other documents of the same kinds."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from documents import Documents
from tokenizers import Tokenizer
from work import WorkFolder

from valley2_edge.errors import InputError

PREDICTIONS = 511
"""Predictions of a window, which begins with <|endoftext|>."""
WANTED = {"book": 14, "rust2": 4, "py": 10, "lic": 5, "info": 6, "man": 5, "pod": 4}
"""Windows of each kind of document."""
CALIBRATION_LINES = 160
_BEGIN_OF_TEXT = 0
_PROSE = 0.9
_PROMPT_TOKENS = 64
_INSTRUCTION = "Continue this text.\n\n"


@dataclass(frozen=True)
class Piece:
    """A stretch of a document."""

    document: str
    first_token: int
    ids: list[int]


def cut_windows(documents: Documents, tokenizer: Tokenizer, work: WorkFolder) -> dict[str, int]:
    """Writes the windows and the calibration set. The windows lie in a fixed, random order.

    Args:
        documents: Texts by "KIND/NAME".
        tokenizer: That of the trained model.
        work: Where to write.

    Returns:
        How many windows of each kind are missing, where any are.

    Raises:
        InputError: The documents give no window at all.
    """
    pieces = _pieces(documents, tokenizer)
    chooser = random.Random(0)
    chosen, lacking = _chosen(pieces, chooser)
    if not chosen:
        raise InputError("None of the documents is long enough for a window of 511 tokens of prose.")
    used = {piece.document for piece in chosen}
    # Licences resemble each other: the calibration set has none of them.
    rest = [piece for piece in pieces if piece.document not in used and _kind(piece) != "lic"]
    chooser.shuffle(rest)
    with work.calibration.open("w", encoding="utf-8") as stream:
        for piece in rest[:CALIBRATION_LINES]:
            stream.write(json.dumps(_calibration_line(piece, tokenizer)) + "\n")
    work.sources.write_text(json.dumps([[piece.document, piece.first_token] for piece in chosen]) + "\n", "utf-8")
    # Last, because its presence says that all three are there.
    np.save(work.windows, np.array([[_BEGIN_OF_TEXT, *piece.ids] for piece in chosen], np.int32))
    return lacking


def reported_windows(count: int, every: bool) -> list[int]:
    """Indices of the windows to measure: the even ones, for the odd ones are kept aside to confirm what was chosen."""
    return list(range(0, count, 1 if every else 2))


def _pieces(documents: Documents, tokenizer: Tokenizer) -> list[Piece]:
    pieces = []
    for document, text in documents.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for first in range(0, len(ids) - PREDICTIONS, PREDICTIONS):
            piece = ids[first : first + PREDICTIONS]
            if _is_prose(tokenizer.decode(piece)):
                pieces.append(Piece(document, first, piece))
    return pieces


def _is_prose(text: str) -> bool:
    """Whether nearly all characters are letters, spaces and plain punctuation, and no rule of dashes is in it."""
    plain = sum(character.isalpha() or character in " ,.'\n" for character in text)
    return plain > _PROSE * max(1, len(text)) and not re.search(r"(.)\1{12}", text)


def _chosen(pieces: list[Piece], chooser: random.Random) -> tuple[list[Piece], dict[str, int]]:
    by_kind: Mapping[str, list[Piece]] = {kind: [] for kind in WANTED}
    for piece in pieces:
        by_kind[_kind(piece)].append(piece)
    chosen: list[Piece] = []
    lacking = {}
    for kind, wanted in WANTED.items():
        chooser.shuffle(by_kind[kind])
        found = by_kind[kind][:wanted]
        chosen += found
        if len(found) < wanted:
            lacking[kind] = wanted - len(found)
    return chosen, lacking


def _kind(piece: Piece) -> str:
    return piece.document.split("/")[0]


def _calibration_line(piece: Piece, tokenizer: Tokenizer) -> dict[str, str]:
    prompt, answer = (tokenizer.decode(ids).strip() for ids in (piece.ids[:_PROMPT_TOKENS], piece.ids[_PROMPT_TOKENS:]))
    return {"prompt": _INSTRUCTION + prompt, "answer": answer}
