"""What is said when rounding needs more memory than it may take or than there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley2_edge.errors import BudgetError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.rounding import memory_check
from valley2_edge.export.rounding.memory_check import check_memory, machine_bytes
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.rounding.rounder import check_rounding_memory, resolve_rounding

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
GIB = 1 << 30


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "machine_bytes", lambda: 8 * GIB)
    check_memory(8 * GIB, 8 * GIB)
    monkeypatch.setattr(memory_check, "machine_bytes", lambda: None)
    check_memory(8 * GIB, 8 * GIB)


def test_a_budget_that_is_too_small_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "machine_bytes", lambda: 4 * GIB)
    words = r"takes 7\.0 GiB of memory, more than the 6\.0 GiB of --memory: raise it, or choose --method rtn"
    with pytest.raises(BudgetError, match=words):
        check_memory(7 * GIB, 6 * GIB)


def test_a_machine_that_is_too_small_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "machine_bytes", lambda: 4 * GIB)
    with pytest.raises(BudgetError, match=r"more than the 4\.0 GiB of this machine: choose --method rtn, which"):
        check_memory(7 * GIB, 8 * GIB)


def test_this_machine_has_some_memory() -> None:
    found = machine_bytes()
    assert found is None or found > 256 << 20


def test_only_a_calibration_set_needs_the_memory() -> None:
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        small = RoundingOptions(budget_bytes=1 << 20)
        with pytest.raises(BudgetError, match="--method rtn"):
            check_rounding_memory(checkpoint, resolve_rounding(small, "int4", False))
        check_rounding_memory(checkpoint, resolve_rounding(small, "int8", False))
