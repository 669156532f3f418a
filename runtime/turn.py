"""A question of a conversation, and its answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One question and its answer, as far as it came."""

    question: str
    pictures: int = 0
    """Frames of a video included."""
    answer: str = ""
