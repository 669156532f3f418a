"""The estimate of how long a rounding will still take."""

from __future__ import annotations

import pytest

from valley2_edge.export.rounding.work_meter import WorkMeter


def test_remaining_time_depends_on_the_speed_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0, 11.0])
    monkeypatch.setattr("valley2_edge.export.rounding.work_meter.time.perf_counter", lambda: next(clock))
    meter = WorkMeter({"slow": 30, "fast": 100, "other": 6})
    assert meter.remaining_seconds() is None
    meter.skip("slow", 10)
    with meter.measured("slow", 10):
        pass
    with meter.measured("fast", 1):
        pass
    # 10 slow ones at 1 s, 99 fast ones at 1 s, 6 unknown ones at the average of 11 s for 11.
    assert meter.remaining_seconds() == pytest.approx(10 + 99 + 6)
