"""The measurement of cancels tells a stage that was stopped from one that had ended before."""

from __future__ import annotations

import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from valley2_edge.runtime.cancellation import CancelToken


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return import_module("cancel_latency")


def waits_for_a_cancel(token: CancelToken) -> None:
    stopped = threading.Event()
    with token.stopping(stopped.set):
        stopped.wait(0.2)
        token.check()


def test_latency_of_a_stopped_stage_is_counted(module: ModuleType) -> None:
    stage = module.Stage("waits", waits_for_a_cancel)
    assert module.latency_of(stage, 0.0) is not None
    found = module.latencies_of(stage, 3, np.random.default_rng(0))
    assert 0 < len(found) <= 3
    assert all(latency > 0 for latency in found)


def test_stage_that_has_ended_has_no_latency(module: ModuleType) -> None:
    assert module.latency_of(module.Stage("ends", lambda token: None), 0.1) is None
