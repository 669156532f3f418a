"""`valley2-edge plan` and `--memory`: what they print, and what they refuse in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def content(run: Run, *words: object) -> dict[str, object]:
    outcome = run("plan", *words, "--json")
    assert outcome.code == 0, outcome.stderr
    parsed: dict[str, object] = json.loads(outcome.stdout)
    return parsed


def test_json_has_parts_phases_and_settings(run: Run, int4_bundle: Path) -> None:
    found = content(run, int4_bundle, "--image", "1280x720", "--image", "300x400", "--context", "8192")
    assert set(found) == {"directory", "pictures", "memory_bytes", "settings", "changes", "plan"}
    assert found["pictures"] == [{"width": 1280, "height": 720}, {"width": 300, "height": 400}]
    assert found["memory_bytes"] is None and found["changes"] == []
    plan, settings = found["plan"], found["settings"]
    assert isinstance(plan, dict) and isinstance(settings, dict)
    phases = {name: plan[f"{name}_phase_bytes"] for name in ("tiles", "eagle", "answer")}
    assert plan["peak_bytes"] == max(phases.values()) == phases[plan["peak_phase"]]
    assert plan["context_length"] == settings["context_length"] == 8192
    assert settings["kv_precision"] == "auto" and settings["eagle_max_tokens"] is None


def test_table_names_the_peak_and_its_phase(run: Run, int4_bundle: Path) -> None:
    outcome = run("plan", int4_bundle, "--image", "1280x720", "--context", "4096")
    assert outcome.code == 0 and "at most, while" in outcome.stdout.replace("\n", " ")
    for part in ("process", "decoder", "KV cache", "SigLIP", "Eagle", "phase: answer"):
        assert part in outcome.stdout


def test_frames_of_a_video_are_pictures(run: Run, int4_bundle: Path) -> None:
    found = content(run, int4_bundle, "--video", "640x360", "--frames", "5")
    assert found["pictures"] == [{"width": 640, "height": 360}] * 5


def test_memory_makes_the_plan_fit(run: Run, int4_bundle: Path) -> None:
    words = (int4_bundle, "--image", "4000x3000", "--eagle-preset", "full", "--context", "24000")
    free = content(run, *words)["plan"]
    assert isinstance(free, dict)
    limit = free["peak_bytes"] - (200 << 20)
    kept = content(run, *words, "--memory", str(limit))
    assert isinstance(kept["plan"], dict) and kept["plan"]["peak_bytes"] <= limit
    assert "Eagle tokens a picture" in str(kept["changes"]) and kept["memory_bytes"] == limit


def test_frames_that_are_said_to_fit_are_planned(run: Run, int4_bundle: Path) -> None:
    found = content(run, int4_bundle, "--video", "640x480", "--frames", "84")
    assert isinstance(found["plan"], dict) and isinstance(found["pictures"], list)
    one = found["plan"]["picture_tokens"] / 84
    assert len(found["pictures"]) == 84 and 0 <= 32768 - found["plan"]["picture_tokens"] < one


def test_the_largest_picture_takes_the_positions_of_a_large_one(run: Run, int4_bundle: Path) -> None:
    plans = [content(run, int4_bundle, "--image", size)["plan"] for size in ("999999999x999999999", "4000x4000")]
    largest, large = (plan["picture_tokens"] for plan in plans if isinstance(plan, dict))
    assert largest == large


@pytest.mark.parametrize("words", [(), ("--gpu-memory", "8GiB")])
def test_auto_is_what_it_is_when_loading(
    run: Run, int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Without a GPU the CPU, whatever its memory is said to be."""
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(tmp_path / "no driver"))
    on_cpu = content(run, int4_bundle, "--image", "640x480")["plan"]
    found = content(run, int4_bundle, "--image", "640x480", "--device", "auto", *words)
    assert isinstance(found["plan"], dict) and isinstance(on_cpu, dict)
    assert found["plan"]["gpu_bytes"] == found["plan"]["gpu_layers"] == 0
    assert found["plan"]["decoder_bytes"] == on_cpu["decoder_bytes"]
    assert "GPU: none that can be used" in run("plan", int4_bundle, "--device", "auto", *words).stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--image", "1280"), "--image takes width x height"),
        (("--image", "0x720"), "--image takes width x height"),
        (("--image", "wide x high"), "--image takes width x height"),
        (("--video", "640,360"), "--video takes width x height"),
        (("--image", "10x10", "--video", "640x360"), "not about both"),
        (("--video", "640x360", "--frames", "0"), "--frames must be at least 1"),
        (("--image", "10000x10"), "too thin"),
        (("--memory", "plenty"), "no amount of memory"),
        (("--memory", "1MiB"), "would fit"),
        (("--context", "-5"), "context_length"),
        (("--context", "256", "--image", "1280x720"), "positions"),
        # However large: an answer at once, and not after the frames were listed one by one.
        (("--video", "640x480", "--frames", "1000000000"), "at most 84 of them fit"),
        (("--video", "640x480", "--frames", "85", "--memory", "8GiB"), "at most 84 of them fit"),
        (("--context-length", "4294967295"), "context_length is 4294967295, but the model was trained for 32768"),
        (("--context-length", "1" + "0" * 30), "context_length is 1"),
        (("--prefill-chunk", "4294967295"), "prefill_chunk is 4294967295; at most"),
        (("--image", f"{10**9}x{10**9}"), "--image takes width x height"),
    ],
)
def test_mistakes_are_one_line(run: Run, int4_bundle: Path, words: tuple[str, ...], sentence: str) -> None:
    outcome = run("plan", int4_bundle, *words)
    assert outcome.code == 2 and sentence in outcome.error, outcome


def test_directory_that_is_no_bundle_is_refused(run: Run, tmp_path: Path) -> None:
    outcome = run("plan", tmp_path, "--image", "1280x720")
    assert outcome.code == 2 and "is not a bundle" in outcome.error


def test_chat_refuses_before_it_loads(run: Run, int4_bundle: Path, picture: Path) -> None:
    outcome = run("chat", picture, "What?", "--bundle", int4_bundle, "--memory", "2MiB")
    assert outcome.code == 2 and "does not fit 2.0 MiB" in outcome.stderr and outcome.stdout == ""


def test_chat_says_what_it_chose(run: Run, int4_bundle: Path, picture: Path) -> None:
    words = ("chat", picture, "What?", "--bundle", int4_bundle, "--max-new-tokens", "2", "--memory", "100GiB")
    outcome = run(*words)
    assert outcome.code == 0 and "all as asked for" in outcome.stderr


def test_gpu_is_planned_in_phases(run: Run, int4_bundle: Path) -> None:
    words = (int4_bundle, "--image", "640x480", "--context", "2048", "--device", "cuda", "--vision-engine", "tensorrt")
    whole = content(run, *words, "--gpu-memory", "8GiB")["plan"]
    assert isinstance(whole, dict) and whole["gpu_memory_bytes"] == 8 << 30
    assert whole["gpu_bytes"] == whole["gpu_answer_phase_bytes"] > whole["gpu_eagle_phase_bytes"] > 0
    apart = content(run, *words, "--gpu-memory", str(whole["gpu_bytes"] - 1))
    assert isinstance(apart["plan"], dict) and apart["plan"]["gpu_bytes"] < whole["gpu_bytes"]
    assert isinstance(apart["settings"], dict) and not apart["settings"]["keep_vision"]
    outcome = run("plan", *words, "--gpu-memory", "8GiB")
    assert outcome.code == 0 and "GPU phase: eagle" in outcome.stdout
    assert "8.0 GiB at most, 2 layers of the decoder, everything stays" in outcome.stdout.replace("\n", " ")
    refused = run("plan", *words, "--gpu-memory", "100MiB")
    assert refused.code == 2 and "MiB would fit" in refused.error
