"""`valley2-edge bench`: what it prints, what it refuses, and what it does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from valley2_edge.runtime.core import decoder as decoder_module
from valley2_edge.runtime.core.decoder_session import DecoderSession

TINY = ("--shape", "tiny", "--layers", 1, "--threads", 1, "--group-size", 32, "--lengths", "16,48", "--context", 8)
SHORT = ("--new-tokens", 5, "--warm-up", 0, "--repetitions", 2)
SPEED = {"seconds", "seconds_quartiles"}


def check_measurement(content: dict[str, Any], unit: str, rate: str, fraction: str) -> None:
    assert {f"{unit}_per_s", f"{unit}_per_s_quartiles", rate, fraction, f"{fraction}_quartiles"} | SPEED <= set(content)
    low, high = content[f"{unit}_per_s_quartiles"]
    assert 0 < low <= content[f"{unit}_per_s"] <= high
    assert content[fraction] > 0
    assert content[rate] > 0


@pytest.mark.slow
def test_json_of_a_shape(run) -> None:
    outcome = run("bench", *TINY, *SHORT, "--json")
    assert outcome.code == 0, outcome.stderr
    content = json.loads(outcome.stdout)
    assert (content["format"], content["format_version"]) == ("valley2-bench", 2)
    assert set(content) == {
        "format",
        "format_version",
        "tool_version",
        "complete",
        "machine",
        "model",
        "settings",
        "prefill",
        "decode",
    }
    machine = content["machine"]
    assert machine["threads"] == 1
    assert all(machine[name] > 0 for name in ("read_gb_per_s", "int8_gops", "fp32_gflops"))
    assert content["model"]["layers"] == 1
    check_measurement(content["prefill"], "tokens", "gops", "fraction_of_peak")
    check_measurement(content["decode"], "tokens", "gb_per_s", "fraction_of_bandwidth")
    assert [length["positions"] for length in content["prefill"]["lengths"]] == [16, 48]
    assert content["prefill"]["positions"] == 48
    assert content["decode"]["tokens"] == 5
    assert content["decode"]["bytes_per_token"] > content["model"]["weight_bytes"]


@pytest.mark.slow
def test_shares_are_of_the_limits_that_were_read(run) -> None:
    words = ("--lengths", 16, "--new-tokens", 2, "--warm-up", 0, "--repetitions", 1, "--json")
    content = json.loads(run("bench", *TINY, *words).stdout)
    machine, prefill, decode = content["machine"], content["prefill"], content["decode"]
    # One reading before and one after: their mean, which is the share's limit, is their median.
    assert prefill["fraction_of_peak"] == pytest.approx(prefill["gops"] / machine["int8_gops"])
    assert decode["fraction_of_bandwidth"] == pytest.approx(decode["gb_per_s"] / machine["read_gb_per_s"])
    assert decode["bytes_per_token"] * decode["tokens_per_s"] == pytest.approx(decode["gb_per_s"] * 1e9)


@pytest.mark.slow
def test_json_of_a_bundle(run, int4_bundle: Path) -> None:
    words = ("--threads", 1, "--lengths", 16, "--context", 8, "--new-tokens", 2, "--warm-up", 0, "--repetitions", 1)
    outcome = run("bench", int4_bundle, *words, "--eagle-preset", "fast", "--json")
    assert outcome.code == 0, outcome.stderr
    content = json.loads(outcome.stdout)
    check_measurement(content["siglip"], "tiles", "gflops", "fraction_of_peak")
    check_measurement(content["projector"], "tiles", "gflops", "fraction_of_peak")
    check_measurement(content["eagle"], "patches", "gflops", "fraction_of_peak")
    first = content["first-token"]
    assert (first["width"], first["height"]) == (1280, 720)
    assert first["eagle_tokens"] * 4 == content["eagle"]["patches"]
    assert first["prompt_tokens"] > first["siglip_tokens"] + first["eagle_tokens"]
    assert 0 < sum(first["stage_seconds"].values()) <= first["seconds"] * 1.5
    assert content["model"]["bundle"] == int4_bundle.name


@pytest.mark.slow
def test_decoder_in_onnx_runtime_is_measured_as_well(run, onnx_bundle: Path) -> None:
    words = ("--parts", "prefill,decode", "--lengths", 16, "--context", 8, "--new-tokens", 2, "--repetitions", 1)
    outcome = run("bench", onnx_bundle, *words, "--json")
    assert outcome.code == 0, outcome.stderr
    content = json.loads(outcome.stdout)
    assert content["decode"]["tokens_per_s"] > 0 and "CPUExecutionProvider" in content["machine"]["isa"]


@pytest.mark.slow
def test_table_names_parts_and_limits(run) -> None:
    outcome = run("bench", *TINY, *SHORT)
    assert outcome.code == 0
    for word in ("prefill 16", "prefill 48", "decode after 8", "tokens/s", "GB/s", "GOPS", "in fp32"):
        assert word in outcome.stdout


@pytest.mark.slow
def test_repetitions_and_warm_up_are_done_and_no_more(run, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    prefill = DecoderSession.prefill

    def count(self: DecoderSession, segments: Any, *rest: Any, **named: Any) -> None:
        lengths.append(sum(len(segment) for segment in segments))
        prefill(self, segments, *rest, **named)

    monkeypatch.setattr(decoder_module.DecoderSession, "prefill", count)
    outcome = run("bench", *TINY, "--parts", "prefill", "--warm-up", 2, "--repetitions", 3)
    assert outcome.code == 0
    assert lengths == [16] * 5 + [48] * 5


@pytest.mark.slow
def test_parts_that_are_not_named_are_left_out(run) -> None:
    content = json.loads(run("bench", *TINY, *SHORT, "--parts", "decode", "--json").stdout)
    assert "prefill" not in content
    assert content["settings"]["parts"] == ["decode"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shape", "gpt-9"), "qwen2.5-7b"),
        (("--shape", "tiny", "--layers", 0), "at least 1 layer"),
        (("--shape", "tiny", "--group-size", 48), "--group-size must be 32, 64 or 128, not 48"),
        (("--shape", "tiny", "--parts", "eagle"), "eagle"),
        (
            ("--shape", "tiny", "--parts", "first_token"),
            "--parts has no 'first_token'; there are prefill, decode, siglip",
        ),
        (("--shape", "tiny", "--lengths", "ten"), "ten"),
        (("--shape", "tiny", "--lengths", "16,0"), "at least 1"),
        (("--shape", "tiny", "--lengths", "5000"), "5000"),
        (("--shape", "tiny", "--context", "4095"), "4096"),
        (("--shape", "tiny", "--repetitions", 0), "--repetitions must be at least 1, not 0"),
        (("--shape", "tiny", "--warm-up", -1), "--warm-up must be at least 0, not -1"),
        (("--shape", "tiny", "--threads", -1), "threads"),
        (("--shape", "tiny", "--isa", "mmx"), "isa"),
        (("--layers", 2), "--layers"),
        (("somewhere", "--shape", "tiny"), "not both"),
    ],
)
def test_what_means_nothing_is_one_sentence(run, words: tuple[object, ...], said: str) -> None:
    outcome = run("bench", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.error


def test_directory_that_is_no_bundle(run, tmp_path: Path) -> None:
    outcome = run("bench", tmp_path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "is not a bundle" in outcome.error


@pytest.mark.slow
def test_no_framework_is_loaded(tmp_path: Path) -> None:
    words = ["bench", *map(str, TINY), *map(str, SHORT), "--json"]
    code = (
        f"import sys; from valley2_edge.cli.main import main; main({words!r}); "
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
