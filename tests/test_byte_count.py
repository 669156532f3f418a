"""Amounts of memory are read and written as people do it."""

from __future__ import annotations

import pytest

from valley2_edge.byte_count import format_bytes, parse_bytes
from valley2_edge.errors import InputError


@pytest.mark.parametrize(("text", "size"), [("8GiB", 8 << 30), ("8G", 8 << 30), ("1.5 mb", 3 << 19), ("77", 77)])
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8 GiBs", "-1", "0", "much"])
def test_other_words_are_no_amount_of_memory(text: str) -> None:
    with pytest.raises(InputError, match=r"write for example 8GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (6 << 30, "6.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_written_in_powers_of_1024(count: int, text: str) -> None:
    assert format_bytes(count) == text
