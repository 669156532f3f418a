"""Times as people write them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """A time for people: 5400 is "1 h 30 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
