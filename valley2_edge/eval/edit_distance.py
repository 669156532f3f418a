"""Levenshtein distance: how many characters one has to insert, delete or replace."""

from __future__ import annotations


def edit_distance(first: str, second: str) -> int:
    """The least number of insertions, deletions and replacements of characters that turn one text into the other.

    Source: Wagner and Fischer, "The string-to-string correction problem", 1974.
    """
    above = list(range(len(second) + 1))  # distances of a beginning of `first` to every beginning of `second`
    for row, character in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            replaced = above[column - 1] + (character != other)
            current.append(min(replaced, above[column] + 1, current[column - 1] + 1))
        above = current
    return above[-1]
