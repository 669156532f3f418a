"""Writes a span of time for people."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """A span of time in words: 5400 becomes "1 h 30 min".

    Args:
        seconds: The span, 0 or more.
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
