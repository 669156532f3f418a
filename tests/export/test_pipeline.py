"""From a checkpoint to a bundle: complete, refused with one sentence, or continued after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from valley2_edge.bundle import open_bundle
from valley2_edge.calibration.builtin import builtin_set
from valley2_edge.errors import BudgetError, CheckpointError, ExportError
from valley2_edge.export.bundle_size import bundle_size
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.vision import component as vision

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"
NEAREST = ExportOptions(rounding=RoundingOptions(method="rtn"), rotation="hadamard")  # as the shared bundle was made
SMALL_DISK = pytest.mark.parametrize("small_disk", ["2m"], indirect=True)  # the bundle needs 6 MiB

KILLED_EXPORT = """
import os, signal, sys
from pathlib import Path
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.rounding.layer_store import LayerStore
from valley2_edge.export.rounding.options import RoundingOptions

def progress(stage, done, total):
    if stage == sys.argv[3] and done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

commit, committed = LayerStore.commit, 0

def counted(*arguments, **options):
    global committed
    commit(*arguments, **options)
    committed += 1
    progress("layers", committed, committed)

LayerStore.commit = counted
options = ExportOptions(rounding=RoundingOptions(method=sys.argv[5], calibration_samples=2), rotation="hadamard")
export_bundle(sys.argv[1], Path(sys.argv[2]), options, progress=progress)
"""


class Stages:
    """Remembers which components were really made."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        name = stage.partition(":")[0]
        if name not in self.seen:
            self.seen.append(name)


def _contents(bundle: Path, report: bool = True) -> dict[str, bytes]:
    """Every file but the manifest's date, by path; without the report where that says how long the rounding took."""
    contents = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    manifest = json.loads(contents.pop("valley2.json"))
    manifest["source"].pop("created")
    if not report:
        contents.pop("report.html")
        manifest["files"].pop("report.html")
    return contents | {"valley2.json": json.dumps(manifest).encode()}


def _kill_export(output: Path, stage: str, done: int, method: str = "rtn") -> None:
    command = [sys.executable, "-c", KILLED_EXPORT, str(CHECKPOINT), str(output), stage, str(done), method]
    result = subprocess.run(command, cwd=output.parent, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr


def test_the_bundle_opens_and_says_what_it_is(int4_bundle: Path) -> None:
    manifest = open_bundle(int4_bundle, check="full").manifest
    assert (manifest.source.checkpoint, manifest.source.revision) == ("eagle_ovis", None)
    assert (manifest.decoder.precision, manifest.decoder.lm_head_precision) == ("int4", "int8")
    assert (manifest.decoder.group_size, manifest.decoder.symmetric, manifest.decoder.method) == (128, False, "rtn")
    assert manifest.decoder.group_sizes == "64 and 128"
    assert (manifest.siglip.precision, manifest.siglip.files) == ("bf16", ["vision/siglip.safetensors"])
    assert manifest.graphs is None
    assert manifest.architecture.decoder.vocab_size == 679


def test_the_error_of_every_component_and_matrix_is_recorded(int4_bundle: Path) -> None:
    manifest = open_bundle(int4_bundle).manifest
    errors = {matrix.name: matrix.relative_error for matrix in manifest.decoder.matrices}
    assert len(errors) == 2 * 4 + 1
    assert all(0.05 < error < 0.12 for name, error in errors.items() if name != "lm_head")
    assert 0 < errors["lm_head"] < 0.01
    assert manifest.quality["decoder_worst_relative_error"] == max(errors.values())
    assert manifest.eagle is not None
    assert 0 < manifest.eagle.relative_error < 5e-3
    assert set(manifest.quality["selftest_vision_relative_error"]) == {
        "siglip_features",
        "projector_tokens",
        "eagle_tokens",
    }


def test_the_tokenizer_is_copied_byte_for_byte(int4_bundle: Path) -> None:
    names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "merges.txt", "vocab.json"]
    for name in names:
        assert (int4_bundle / "tokenizer" / name).read_bytes() == (CHECKPOINT / name).read_bytes()


def test_the_manifest_lists_every_file_and_no_path_of_this_machine(int4_bundle: Path) -> None:
    listed = set(open_bundle(int4_bundle).manifest.files)
    assert listed == set(_contents(int4_bundle)) - {"valley2.json"}
    assert str(CHECKPOINT.parent) not in (int4_bundle / "valley2.json").read_text()


@pytest.mark.skipif(os.name != "posix", reason="kills itself with a POSIX signal")
@pytest.mark.parametrize(
    ("stage", "done", "kept"),
    [("eagle: weights", 3, ["siglip", "projector"]), ("selftest", 2, ["siglip", "projector", "eagle", "decoder"])],
)
def test_a_killed_export_goes_on_and_gives_the_same_bytes(
    int4_bundle: Path, tmp_path: Path, stage: str, done: int, kept: list[str]
) -> None:
    output = tmp_path / "tiny"
    _kill_export(output, stage, done)
    assert not output.exists()
    stages = Stages()
    export_bundle(CHECKPOINT, output, NEAREST, progress=stages)
    assert not set(kept) & set(stages.seen)
    assert stage.partition(":")[0] in stages.seen
    assert _contents(output) == _contents(int4_bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.skipif(os.name != "posix", reason="kills itself with a POSIX signal")
def test_a_killed_gptq_export_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    options = ExportOptions(rounding=RoundingOptions(method="gptq", calibration_samples=2), rotation="hadamard")
    whole, output = tmp_path / "whole", tmp_path / "tiny"
    export_bundle(CHECKPOINT, whole, options)
    _kill_export(output, "layers", 1, "gptq")
    assert not output.exists()
    stages = Stages()
    export_bundle(CHECKPOINT, output, options, progress=stages)
    assert {"siglip", "projector", "eagle"}.isdisjoint(stages.seen)
    assert _contents(output, report=False) == _contents(whole, report=False)


class _Interrupt(KeyboardInterrupt):
    pass


def _interrupt_at(stage: str) -> Any:
    def progress(name: str, done: int, total: int) -> None:
        if name == stage:
            raise _Interrupt

    return progress


def test_other_options_discard_what_an_interrupted_export_left(tmp_path: Path) -> None:
    with pytest.raises(_Interrupt):
        export_bundle(CHECKPOINT, tmp_path / "tiny", NEAREST, progress=_interrupt_at("projector: weights"))
    stages = Stages()
    with pytest.raises(_Interrupt):
        export_bundle(
            CHECKPOINT,
            tmp_path / "tiny",
            replace(NEAREST, group_size=32),
            progress=_both(stages, _interrupt_at("projector: weights")),
        )
    assert stages.seen == ["siglip", "projector"]


def _both(*callbacks: Any) -> Any:
    def progress(stage: str, done: int, total: int) -> None:
        for callback in callbacks:
            callback(stage, done, total)

    return progress


def test_the_output_is_named_after_checkpoint_and_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(_Interrupt):
        export_bundle(CHECKPOINT, options=ExportOptions(precision="fp16"), progress=_interrupt_at("projector: weights"))
    assert [path.name for path in tmp_path.iterdir()] == [".eagle_ovis-fp16.partial"]


def test_an_existing_output_is_refused_before_any_work(int4_bundle: Path) -> None:
    stages = Stages()
    with pytest.raises(ExportError, match="exists: choose another --output or pass --overwrite"):
        export_bundle(CHECKPOINT, int4_bundle, NEAREST, progress=stages)
    assert stages.seen == []


def test_a_vision_error_that_is_too_large_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "relative_error", lambda *arguments: 0.2)
    with pytest.raises(ExportError, match=r"siglip\.safetensors in bf16 differs from torch by 2\.00e-01"):
        export_bundle(CHECKPOINT, tmp_path / "tiny", NEAREST)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_lacks_a_tensor_leaves_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(CHECKPOINT, damaged)
    index = damaged / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"].pop("model.norm.weight")
    index.chmod(0o644)
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        export_bundle(damaged, tmp_path / "tiny", NEAREST)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int3"}, "precision 'int3' is unknown"),
        ({"group_size": 48}, "group size 48 is not supported"),
        ({"vision_precision": "int3"}, "vision precision 'int3' is unknown"),
        ({"vision_precision": "fp16"}, "vision precision 'fp16' is unknown: choose bf16, int8, fp32"),
        ({"lm_head_precision": "int2"}, "precision 'int2' is unknown"),
    ],
)
def test_an_unknown_option_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_bundle(CHECKPOINT, tmp_path / "tiny", ExportOptions(**options))
    assert list(tmp_path.iterdir()) == []


@SMALL_DISK
def test_a_disk_that_is_too_small_is_refused_at_once(small_disk: Path) -> None:
    stages = Stages()
    with pytest.raises(BudgetError, match="free some space"):
        export_bundle(CHECKPOINT, small_disk / "tiny", NEAREST, progress=stages)
    assert stages.seen == []
    assert list(small_disk.iterdir()) == []


@SMALL_DISK
def test_a_disk_that_fills_up_leaves_nothing(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 10**12))
    with pytest.raises(BudgetError, match="is full: nothing was kept"):
        export_bundle(CHECKPOINT, small_disk / "tiny", NEAREST)
    assert list(small_disk.iterdir()) == []


def test_the_size_is_estimated_from_above_and_closely(int4_bundle: Path) -> None:
    actual = sum(path.stat().st_size for path in int4_bundle.rglob("*") if path.is_file())
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        estimate = bundle_size(checkpoint, "bf16", decoder_formats("int4"), graphs=False)
    assert actual <= estimate <= actual + 4 * 2**20


def test_int4_means_gptq_on_the_builtin_set_after_one_sentence_about_its_time(tmp_path: Path) -> None:
    said: list[str] = []
    manifest = open_bundle(export_bundle(CHECKPOINT, tmp_path / "tiny", announce=said.append)).manifest
    builtin = builtin_set()
    assert (manifest.decoder.precision, manifest.decoder.method) == ("int4", "gptq")
    assert manifest.source.calibration_sha256 == builtin.sha256
    found = manifest.quality["calibration"]
    assert (found["name"], found["samples"], found["broken"]) == ("builtin", len(builtin.samples), [])
    assert found["picture_tokens"] > 100 and found["text_tokens"] > 10_000
    assert "mean_kl" not in manifest.quality  # nothing is measured unless that is asked for
    tokens = found["picture_tokens"] + found["text_tokens"]
    assert said[0].startswith(f"GPTQ on {len(builtin.samples)} samples ({tokens:,} tokens): about ")
    assert sum("--method rtn" in sentence for sentence in said) == 1


def test_too_little_memory_for_gptq_is_said_before_any_work(tmp_path: Path) -> None:
    stages = Stages()
    options = ExportOptions(rounding=RoundingOptions(budget_bytes=1 << 20))
    with pytest.raises(BudgetError, match="choose --method rtn"):
        export_bundle(CHECKPOINT, tmp_path / "tiny", options, progress=stages)
    assert stages.seen == []
    assert list(tmp_path.iterdir()) == []
