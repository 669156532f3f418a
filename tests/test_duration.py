"""Spans of time in words."""

from __future__ import annotations

from valley2_edge.duration import format_duration


def test_durations_are_readable() -> None:
    assert [format_duration(seconds) for seconds in (3.2, 98, 600, 19440)] == ["3 s", "98 s", "10 min", "5 h 24 min"]
