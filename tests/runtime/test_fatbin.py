"""The GPU kernels that a wheel carries: for every target that it promises, every kernel that the core asks for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fatbin import ELF, PTX, Entry, read_fatbin

from valley2_edge.runtime.core.library import library_path

NATIVE = Path(__file__).resolve().parents[2] / "runtime" / "native"
KERNELS_VARIABLE = "VALLEY2_CUDA_KERNELS"
"""Names the directory of kernels that were compiled by themselves, which then must be there."""
TARGETS = {75, 80, 86, 87, 89, 90, 120}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    given = os.environ.get(KERNELS_VARIABLE)
    path = (Path(given) if given else library_path().parent / "kernels") / "valley2.fatbin"
    if not given and not path.is_file():
        pytest.skip("this build has no GPU kernels: nvcc was not there, or V2E_CUDA=OFF")
    return read_fatbin(path)


@pytest.fixture(scope="module")
def names() -> set[str]:
    table = (NATIVE / "cuda" / "kernels" / "kernel_names.inc").read_text()
    return set(re.findall(r"^V2E_KERNEL_NAME\((\w+)\)", table, re.MULTILINE))


def test_every_target_is_compiled_and_later_ones_can_be(entries: list[Entry]) -> None:
    assert {entry.target for entry in entries if entry.kind == ELF} == TARGETS
    assert {entry.target for entry in entries if entry.kind == PTX} == {75}


def test_every_target_has_every_kernel_and_no_other(entries: list[Entry], names: set[str]) -> None:
    assert len(names) > 30
    for entry in entries:
        found = {name for name in entry.kernels if name.startswith("v2e_")}
        assert found == names, entry.target
