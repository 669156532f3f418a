"""The learning rate rises, stays, and ends at zero with the annealing stage."""

from __future__ import annotations

import pytest

from valley2_nano.schedule import Schedule

BY_STEPS = Schedule(rate=1.0, warmup_steps=10, annealing_share=0.25, minutes=None, steps=100)
BY_MINUTES = Schedule(rate=1.0, warmup_steps=10, annealing_share=0.25, minutes=40.0, steps=None)


def test_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [BY_STEPS.rate_at(step, BY_STEPS.progress(step, 0.0)) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:75]) == {1.0}
    assert rates[75:] == sorted(rates[75:], reverse=True)
    assert rates[-1] == 0.0


def test_annealing_is_the_last_share() -> None:
    begun = [BY_STEPS.annealing(BY_STEPS.progress(step, 0.0)) for step in range(100)]
    assert begun == [False] * 75 + [True] * 25


def test_minutes_count_where_steps_are_not_given() -> None:
    assert BY_MINUTES.progress(10_000, 20.0) == 0.5
    assert BY_MINUTES.progress(0, 60.0) == 1.0


def test_a_longer_schedule_returns_to_the_broad_stage() -> None:
    longer = Schedule(rate=1.0, warmup_steps=10, annealing_share=0.25, minutes=80.0, steps=None)
    assert BY_MINUTES.annealing(BY_MINUTES.progress(0, 35.0))
    assert not longer.annealing(longer.progress(0, 35.0))
