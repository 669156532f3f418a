"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from valley2_edge.errors import InputError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str, least: int = 1) -> int:
    """A number of bytes: "8GiB", "8G", "500 MB", all powers of 1024.

    Args:
        text: An amount as a person writes it.
        least: 0 where nothing is an amount, too.

    Raises:
        InputError: It is none, or too little.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else -1
    if size < least:
        raise InputError(f"{text!r} is no amount of memory: write for example 8GiB.")
    return size


def format_bytes(count: float) -> str:
    """A size for people: 1536 is "1.5 KiB"."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
