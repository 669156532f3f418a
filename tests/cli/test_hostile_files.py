"""Strangers' files on the command line: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from valley2_edge.builtin import builtin_bundle, builtin_checkpoint
from valley2_edge.output_lock import output_lock


def nano(found: Path | None, target: Path) -> Path:
    assert found is not None
    return Path(shutil.copytree(found, target))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return nano(builtin_bundle("nano"), tmp_path / "bundle")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return nano(builtin_checkpoint("nano"), tmp_path / "checkpoint")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_verify_finds_a_decoder_that_no_hash_covers(run, bundle: Path) -> None:
    content = json.loads((bundle / "valley2.json").read_text("utf-8"))
    files = {name: entry for name, entry in content["files"].items() if not name.startswith("decoder/")}
    edit(bundle / "valley2.json", decoder={**content["decoder"], "files": []}, files=files)
    outcome = run("verify", bundle)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "decoder.files lacks decoder/decoder.safetensors" in outcome.error


def test_verify_names_a_file_that_is_not_listed(run, bundle: Path) -> None:
    (bundle / "vision" / "more.onnx.data").write_bytes(b"x")
    outcome = run("verify", bundle)
    assert outcome.code == 2
    assert "'vision/more.onnx.data'" in outcome.error


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}}, "rope_parameters.rope_type"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"max_position_embeddings": -5}, "max_position_embeddings"),
        ({"grid_pinpoints": "(1x1),(40000x40000)"}, "grid_pinpoints"),
    ],
)
def test_export_refuses_a_config_by_its_key(
    run, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    edit(checkpoint / "config.json", **changes)
    outcome = run("export", checkpoint, "--output", tmp_path / "out")
    assert outcome.code == 2
    assert word in outcome.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_export_refuses_devices_and_pipes_as_calibration_sets(run, checkpoint: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("/dev/zero", "a device"), (str(tmp_path / "pipe"), "a pipe")):
        outcome = run("export", checkpoint, "--method", "gptq", "--calibration", name, "--output", tmp_path / "out")
        assert outcome.code == 2
        assert f"is {kind}, not a file" in outcome.error


def test_second_export_to_one_output_is_told(run, checkpoint: Path, tmp_path: Path) -> None:
    with output_lock(tmp_path / "out"):
        outcome = run("export", checkpoint, "--output", tmp_path / "out")
    assert outcome.code == 2
    assert "out is being written by another process" in outcome.stderr.splitlines()[-1]


def test_questions_from_a_pipe_are_refused(run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = run("eval", "ecom-vqa", "nano", "--questions", tmp_path / "pipe")
    assert outcome.code == 2
    assert "is a pipe, not a file" in outcome.error
