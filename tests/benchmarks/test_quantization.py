"""The comparison of roundings remembers what it has measured, and compares pair by pair."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from valley2_edge.export.quality.figures import Quality, SampleQuality

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "quantization.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quantization_benchmark", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _quality(*divergences: float) -> Quality:
    samples = tuple(
        SampleQuality(
            positions=10, kl=10 * kl, same_top=9, surprise=0.1, reference_loss=9.0, tail=0.0, characters=5, errors=1,
            reference_errors=0, questions=1, right=1, reference_right=1,
        )
        for kl in divergences
    )  # fmt: skip
    return Quality(samples, "sha", 1, 0)


def test_results_are_found_again_and_a_broken_line_is_left_out(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    program.Results(path).add("first", program.Result(_quality(0.1, 0.2), 1234))
    with path.open("a") as stream:
        stream.write('{"key": "second", "quality":\n')
    program.Results(path).add("third", program.Result(_quality(0.3, 0.4), 5))
    found = program.Results(path)
    assert found.get("first") == program.Result(_quality(0.1, 0.2), 1234)
    assert found.get("third").decoder_bytes == 5
    assert found.get("second") is None
    assert "damaged" in capsys.readouterr().err


def test_every_table_names_variants_and_every_variant_is_in_a_table(program: ModuleType) -> None:
    named = {name for names in program.TABLES.values() for name in names}
    assert named == set(program.VARIANTS)


def test_the_change_is_that_of_the_same_samples(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        program.DEFAULT: program.Result(_quality(0.1, 0.9), 2_000_000),
        "column order groups": program.Result(_quality(0.2, 1.0), 2_000_000),
    }
    program.print_tables(results)
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("| column order groups"))
    # The two samples differ widely, their changes do not: 0.1 each.
    assert "| +0.10000 (+0.10000 to +0.10000) |" in line
    assert "mean KL 0.5000 (0.1000 to 0.9000), same token 90.00%" in printed
