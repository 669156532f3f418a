"""Levenshtein distance."""

from __future__ import annotations

import itertools
import random

import pytest

from valley2_edge.eval.edit_distance import edit_distance


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("Sunday", "Saturday", 3),
        ("$12.99", "$12.99", 0),
        ("$12.99", "$12.90", 1),
        ("$12.99", "12.99", 1),
        ("ab", "ba", 2),
    ],
)
def test_known_distances(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance


def test_it_is_a_metric() -> None:
    """On every three of all texts of up to three letters, and on random longer ones."""
    texts = ["".join(letters) for length in range(4) for letters in itertools.product("ab", repeat=length)]
    draw = random.Random(0)
    texts += ["".join(draw.choices("abc", k=draw.randint(4, 8))) for _ in range(25)]
    distance = {(first, second): edit_distance(first, second) for first in texts for second in texts}
    for first, second in itertools.product(texts, repeat=2):
        assert distance[first, second] == distance[second, first]
        assert (distance[first, second] == 0) == (first == second)
        assert abs(len(first) - len(second)) <= distance[first, second] <= max(len(first), len(second))
    for first, second, third in itertools.product(texts, repeat=3):
        assert distance[first, third] <= distance[first, second] + distance[second, third]
