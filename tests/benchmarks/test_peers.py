"""The comparison with other engines: its arithmetic, and a run with the engine that is always there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
LAYER_WEIGHTS = 233_046_016


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PEERS))
    return import_module("engine")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PEERS))
    return import_module("compare")


def test_engine_that_computes_all_of_the_last_layer_does_more(engine: ModuleType) -> None:
    shape = engine.Shape(layers=2)
    head = shape.vocabulary * shape.hidden
    everything = engine.About("", "", 0, 0, engine.MATRICES)
    assert everything.prefill_operations(shape, 100) == 2 * (100 * 2 * LAYER_WEIGHTS + head)
    keys = engine.About("", "", 0, 0, ("qkv",))
    rest = LAYER_WEIGHTS - 4608 * 3584
    assert keys.prefill_operations(shape, 100) == 2 * (100 * (2 * LAYER_WEIGHTS - rest) + rest + head)


def test_ratios_are_of_the_times_of_all_layers(engine: ModuleType, compare: ModuleType) -> None:
    shape, rounds = engine.Shape(layers=1), compare.Rounds(positions=64, tokens=4, warm_up=0, count=1)
    ours = SimpleNamespace(
        name="valley2",
        about=engine.About("", "", 100, 300, ("qkv",)),
        timings=[compare.Timing(prefill_seconds=1.0, decode_seconds=1.0, int8_peak=1e12, bandwidth=1e3)],
    )
    theirs = SimpleNamespace(
        name="onnxruntime",
        about=engine.About("", "", 200, 0, engine.MATRICES),
        timings=[compare.Timing(prefill_seconds=3.0, decode_seconds=1.0, int8_peak=1e12, bandwidth=1e3)],
    )
    own, other = compare.evaluate([ours, theirs], shape, 28, rounds)
    assert (own.prefill_ratio, own.decode_ratio) == ([1.0], [1.0])
    # 28 layers read 28 times as much where layers are all that is read, and 3100 / 400 times where 300 bytes are more.
    assert other.decode_ratio == [pytest.approx(28 / (3100 / 400))]
    assert own.decode_share == [pytest.approx(400 * 4 / 1e3)]
    # This project skips most of the only layer, so it has far more to gain from few layers.
    assert 0 < other.prefill_ratio[0] < 3
    assert other.prefill_speed == [pytest.approx(64 / 3)]


@pytest.mark.slow
def test_engine_that_is_not_installed_is_named_and_left_out(tmp_path: Path) -> None:
    command = [sys.executable, str(PEERS / "compare.py"), "--engines", "llama.cpp", "--shape", "tiny", "--layers", "1"]
    command += ["--positions", "8", "--tokens", "2", "--rounds", "1", "--warm-up", "0", "--threads", "1"]
    # An interpreter without packages of its own.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    command += ["--python", f"llama.cpp={bare}", "--json", str(tmp_path / "figures.json")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "llama.cpp: not compared" in finished.stdout
    (row,) = json.loads((tmp_path / "figures.json").read_text())["engines"]
    assert row["name"] == "valley2"
    assert row["prefill_ratio"] == [1.0]
    assert "| valley2 |" in finished.stdout
