"""Rounding layer by layer: killed and continued, in memory or not, and what is said when the numbers go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from valley2_edge.calibration.encode import Branch, EncodedSample
from valley2_edge.calibration.packs import Pack, pack_samples
from valley2_edge.errors import BudgetError, NumericError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder import layers
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.decoder.layout import DECODER_FILE
from valley2_edge.export.decoder.writer import export_decoder, export_rounded_decoder
from valley2_edge.export.rounding import calibrated_decoder
from valley2_edge.export.rounding.calibrated_decoder import RoundingPlan, round_decoder
from valley2_edge.export.rounding.layer_store import LayerState, LayerStore, RoundedLayers
from valley2_edge.export.rounding.memory_check import working_bytes
from valley2_edge.quantize import gptq
from valley2_edge.quantize.factor import NotPositiveDefiniteError
from valley2_edge.quantize.method import MethodName, rounding_method

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
GIB = 1 << 30


def _packs(store: LayerStore, damage: float | None = None) -> list[Pack]:
    """Two packs of random rows as the first layer's input."""
    generator = np.random.default_rng(3)
    samples = []
    for _ in range(4):
        rows = generator.standard_normal((40, 256), np.float32)
        mask = np.arange(40) < 20
        samples.append(EncodedSample("sample", rows, mask, 30, (Branch(tuple(range(10)), (1, 2)),)))
    if damage is not None:
        samples[3].embeddings[5, 7] = damage
    pairs = list(pack_samples(samples, max_tokens=90))
    if not store.state.steps:
        store.activations_path(0).write_bytes(b"".join(rows.numpy().tobytes() for _, rows in pairs))
    return [pack for pack, _ in pairs]


def _round(
    directory: Path, method: MethodName = "rtn", budget: int = 8 * GIB, damage: float | None = None
) -> LayerState:
    store = LayerStore(directory)
    packs = _packs(store, damage)
    plan = RoundingPlan(rounding_method(method), decoder_formats("int4", group_size=64), budget_bytes=budget)
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        return round_decoder(checkpoint, store, packs, plan, lambda *_: None, lambda _: None)


def _layers(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("layer-*.safetensors"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    _round(directory, "gptq")
    return directory


def test_every_matrix_is_recorded_in_order(whole: Path) -> None:
    state = LayerStore(whole).state
    names = [record.name for record in state.records]
    kinds = ["attention.qkv", "attention.output", "mlp.gate_up", "mlp.down"]
    assert names == [f"layers.{index}.{kind}" for index in range(2) for kind in kinds] + ["lm_head"]
    assert all(record.output_error is not None and 0 < record.output_error < 0.2 for record in state.records)
    assert state.steps == 3 and len(state.step_seconds) == 3
    assert set(state.cpu_seconds) == set(state.seconds) == {"forward", "exact", "hessian", "factor", "round"}


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_calibrated_decoder as tests
from valley2_edge.export.rounding import calibrated_decoder
from valley2_edge.export.rounding import layer_store as rounded_layers

torch.set_num_threads(int(sys.argv[5]))
count = 0
place, after = sys.argv[3], int(sys.argv[4])
owner, name = {"commit": (rounded_layers.LayerStore, "commit"), "round": (calibrated_decoder._Rounder, "_round")}[place]
original = getattr(owner, name)

def counted(*arguments, **options):
    global count
    result = original(*arguments, **options)
    count += 1
    if count == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, counted)
tests._round(Path(sys.argv[2]), "gptq")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills itself with a POSIX signal")
@pytest.mark.parametrize(("place", "after", "steps"), [("commit", 1, 1), ("round", 7, 1)])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    whole: Path, tmp_path: Path, place: str, after: int, steps: int
) -> None:
    directory = tmp_path / "layers"
    threads = str(torch.get_num_threads())
    words = [str(Path(__file__).parent), str(directory), place, str(after), threads]
    command = [sys.executable, "-c", KILLED, *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert LayerStore(directory).state.steps == steps
    first = (directory / "layer-000.safetensors").stat().st_mtime_ns
    _round(directory, "gptq")
    assert (directory / "layer-000.safetensors").stat().st_mtime_ns == first
    assert _layers(directory) == _layers(whole)
    assert LayerStore(directory).state.records == LayerStore(whole).state.records


@pytest.mark.slow
def test_a_small_budget_spills_to_disk_and_gives_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = calibrated_decoder.open_activations

    def watched(*arguments: object, **options: object) -> object:
        opened.append(options["in_memory"])
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrated_decoder, "open_activations", watched)
    monkeypatch.setattr(calibrated_decoder, "resident_bytes", lambda: 0)
    needed = working_bytes(Checkpoint.open(CHECKPOINT).config.decoder, 80)
    _round(tmp_path, "gptq", budget=needed + 1000)
    assert opened[:2] == [False, False]
    assert _layers(tmp_path) == _layers(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "calls"), [(0, 3), (1, 2)], ids=["computed again", "kept"])
def test_the_inputs_of_down_are_kept_where_they_fit_and_give_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, calls: int
) -> None:
    widened = []
    original = layers.gated_rows

    def watched(*arguments: torch.Tensor) -> torch.Tensor:
        widened.append(len(arguments[0]))
        return original(*arguments)  # type: ignore[arg-type]

    for module in (layers, calibrated_decoder):
        monkeypatch.setattr(module, "gated_rows", watched)
    monkeypatch.setattr(calibrated_decoder, "resident_bytes", lambda: 0)
    config = Checkpoint.open(CHECKPOINT).config.decoder
    tokens = 160
    needed = working_bytes(config, 80) + 5 * tokens * config.hidden_size * 4
    _round(tmp_path, "gptq", budget=needed + room * tokens * config.intermediate_size * 4)
    # For each of two layers, two packs are widened once in the unrounded model, and once or twice in the rounded one.
    assert len(widened) == calls * 4
    assert _layers(tmp_path) == _layers(whole)


def test_a_budget_below_the_largest_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"[KMG]iB of memory, more than the [0-9.]+ [KMG]?i?B of --memory"):
        _round(tmp_path, budget=1 << 20)


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_a_nan_in_the_activations_names_the_layer(tmp_path: Path, damage: float) -> None:
    with pytest.raises(NumericError, match="layer 0 computed a NaN or an infinity in its calibration inputs"):
        _round(tmp_path, damage=damage)


def test_a_layer_that_overflows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = calibrated_decoder.add_down
    calls = []

    def overflowing(*arguments: object) -> torch.Tensor:
        calls.append(1)
        result = original(*arguments)  # type: ignore[arg-type]
        return result * float("inf") if len(calls) == 3 else result

    monkeypatch.setattr(calibrated_decoder, "add_down", overflowing)
    with pytest.raises(NumericError, match="layer 1 computed a NaN or an infinity in the calibration set"):
        _round(tmp_path)


def test_a_hessian_without_a_factor_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(matrix: torch.Tensor) -> torch.Tensor:
        raise NotPositiveDefiniteError

    monkeypatch.setattr(gptq, "unit_factor_", fails)
    record = _round(tmp_path, "gptq").records[0]
    assert record.method == "rtn"
    assert record.fallback is not None and "not positive definite" in record.fallback


@pytest.mark.parametrize("small_disk", ["768k"], indirect=True)  # the layers need more
def test_a_full_disk_leaves_a_state_that_can_go_on(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        _round(small_disk)
    state = LayerStore(small_disk).state
    assert 0 < state.steps < 3
    assert all(LayerStore(small_disk).layer_path(step).is_file() for step in range(state.steps))


def test_nf4_does_not_depend_on_the_calibration_set(tmp_path: Path) -> None:
    formats = decoder_formats("int4", group_size=64, code="nf4")
    store = LayerStore(tmp_path / "layers")
    plan = RoundingPlan(rounding_method("nf4"), formats)
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        state = round_decoder(checkpoint, store, _packs(store), plan, lambda *_: None, lambda _: None)
        config = checkpoint.config.decoder
        export_rounded_decoder(RoundedLayers(checkpoint, store, formats), config, tmp_path / "calibrated", formats)
        export_decoder(checkpoint, config, tmp_path / "plain", formats)
    assert (tmp_path / "calibrated" / DECODER_FILE).read_bytes() == (tmp_path / "plain" / DECODER_FILE).read_bytes()
    assert [record.method for record in state.records] == ["nf4"] * 8 + ["rtn"]
    assert all(record.output_error is not None for record in state.records)
