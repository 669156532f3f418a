"""The machine's limits through the library."""

from __future__ import annotations

import pytest

from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.probe import LimitName, Probe


@pytest.mark.parametrize("limit", ["read", "int8", "fp32"])
def test_limit_is_a_rate_that_a_processor_can_have(limit: LimitName) -> None:
    with Probe(threads=1) as probe:
        rate = probe.read(limit)
    assert 1e6 < rate < 1e16


def test_every_instruction_set_of_this_machine_has_peaks() -> None:
    available = [isa for isa in ISA_NUMBERS if isa != "auto" and isa_available(isa)]
    assert "portable" in available
    for isa in available:
        with Probe(threads=1, isa=isa) as probe:
            assert probe.read("int8") > 0
            assert probe.read("fp32") > 0


def test_missing_instruction_set_is_refused() -> None:
    missing = [isa for isa in ISA_NUMBERS if isa != "auto" and not isa_available(isa)]
    with pytest.raises(InputError, match="instruction set"):
        Probe(isa=missing[0])


@pytest.mark.parametrize("options", [{"isa": "mmx"}, {"threads": -1}, {"threads": 100_000}])
def test_option_without_a_meaning_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Probe(**options)


def test_closed_probe_says_so() -> None:
    probe = Probe(threads=1)
    probe.close()
    probe.close()
    with pytest.raises(Valley2Error, match="closed"):
        probe.read("int8")
