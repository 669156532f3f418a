"""Reads the texts that this package ships for calibration (calibration/texts/README.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from valley2_edge.calibration.jsonl import read_calibration_file
from valley2_edge.calibration.samples import Sample
from valley2_edge.errors import InputError
from valley2_edge.outside_files import text_lines

TEXTS = Path(__file__).parent / "texts"
"""The folder with one file of lines for each kind of text."""
TEXT_KINDS = ("english", "technical", "chinese", "product", "structured", "code")
"""The kinds of text, which are the names of their files."""


def text_file(kind: str) -> Path:
    """The file with the lines of a kind, in the format of a user's own calibration file.

    Args:
        kind: One of `TEXT_KINDS`.
    """
    return TEXTS / f"{kind}.jsonl"


def count_texts() -> dict[str, int]:
    """The number of lines of each kind."""
    return {kind: sum(1 for _ in text_lines(text_file(kind), InputError)) for kind in TEXT_KINDS}


def shipped_texts(count: int) -> list[Sample]:
    """Takes some of the texts: each kind by its share of all lines, and its lines spread evenly over its file.

    Args:
        count: Number of samples; where there are fewer lines, all are taken.
    """
    samples: list[Sample] = []
    for kind, wanted in _shares(count_texts(), count).items():
        if wanted:
            found = read_calibration_file(text_file(kind), wanted)
            samples += [replace(sample, name=f"{kind} {sample.name}") for sample in found.samples]
    return samples


def _shares(lines: Mapping[str, int], count: int) -> dict[str, int]:
    """Divides `count` by the method of largest remainders; a tie goes to the kind that is named first."""
    total = sum(lines.values())
    count = min(count, total)
    shares = {kind: count * amount // total for kind, amount in lines.items()}
    by_remainder = sorted(lines, key=lambda kind: -(count * lines[kind] % total))
    for kind in by_remainder[: count - sum(shares.values())]:
        shares[kind] += 1
    return shares
