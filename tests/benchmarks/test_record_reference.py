"""Recordings of the reference's own code, here of a stand-in with the same interface, prove a bundle or refuse it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from valley2_edge.bundle import open_bundle
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.verify.golden import Golden
from valley2_edge.verify.run import verify_golden

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "record_reference"
STAND_IN = Path(__file__).parent / "reference_stand_in"
GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"
VARIANT = "hf_tiny"
AUTO_MAP = {
    "AutoConfig": "configuration_valley.ValleyConfig",
    "AutoModel": "modeling_valley.ValleyQwen2ForCausalLM",
    "AutoProcessor": "processing_valley.ValleyProcessor",
}
SYSTEM = "You are Valley, developed by ByteDance. Your are a helpfull Assistant."


def record(checkpoint: Path, questions: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(checkpoint), str(questions), "--output", str(output), *arguments]
    environment = os.environ | {"HF_HOME": str(output.parent / "huggingface"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with the stand-in's code beside its weights, as in the released repository."""
    directory = shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("released") / "tiny")
    for path in STAND_IN.glob("*.py"):
        shutil.copy(path, directory)
    configuration = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(configuration | {"auto_map": AUTO_MAP}))
    return directory


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with the system prompt of the reference outputs, two pictures with the default one, and none."""
    directory = tmp_path_factory.mktemp("questions")
    with np.load(GOLDEN / "inputs" / "tiny30x20.npz") as pictures:
        Image.fromarray(pictures["image0"]).save(directory / "small.png")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    Image.fromarray(pixels).save(directory / "other.png")
    lines = [
        {"name": "tiny30x20", "prompt": "Describe the given image.", "system": SYSTEM, "images": ["small.png"]},
        {"name": "two", "prompt": "What differs?", "images": ["small.png", "other.png"]},
        {"name": "text_only", "prompt": "What is the capital of France?", "system": SYSTEM},
    ]
    path = directory / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def recorded(checkpoint: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("recorded") / "golden"
    finished = record(checkpoint, questions, output, "--trust-remote-code")
    assert finished.returncode == 0, finished.stderr
    assert f"--golden {output} --variant {VARIANT}" in finished.stdout
    return output


@pytest.mark.parametrize("case", ["tiny30x20", "text_only"])
def test_recording_equals_the_one_of_the_real_reference(recorded: Path, case: str) -> None:
    found, expected = (
        Golden(directory).case(variant, case, "hub")
        for directory, variant in ((recorded, VARIANT), (GOLDEN, "hf_eagle_ovis"))
    )
    for key in ("prompt_text", "prefill_len", "tiles_per_image", "eagle_grid_thw", "greedy_tokens", "image_sizes_wh"):
        assert found.record[key] == expected.record[key]
    for name in ("tiles_u8", "eagle_patches_u8", "tiles_per_image", "eagle_grid_thw"):
        np.testing.assert_array_equal(found.preprocessing[name], expected.preprocessing[name])
    np.testing.assert_array_equal(found.forward["input_ids"], expected.forward["input_ids"])
    for name in ("scores", "logits_last"):
        np.testing.assert_allclose(found.forward[name], expected.forward[name], atol=1e-4)


def test_bundle_of_the_same_weights_passes_every_stage(recorded: Path, fp32_bundle: Path) -> None:
    command = [sys.executable, "-m", "valley2_edge", "verify", str(fp32_bundle), "--golden", str(recorded)]
    finished = subprocess.run([*command, "--variant", VARIANT, "--json"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = json.loads(finished.stdout)
    stages = {row["stage"] for row in rows if row["case"] == "two"}
    assert stages >= {
        "prompt", "input_ids", "tiles", "tiles sha256", "patches", "patches sha256", "siglip_features", "projector_out",
        "eagle_features", "inputs_embeds", "logits_last", "scores", "tokens",
    }  # fmt: skip


def test_bundle_of_other_weights_fails_from_the_changed_part_on(recorded: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(CHECKPOINT, tmp_path / "tiny")
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        if "model.layers.1.mlp.down_proj.weight" in tensors:
            tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"] * 2
            save_file(tensors, path, {"format": "pt"})
    bundle = export_bundle(str(directory), tmp_path / "bundle", ExportOptions(precision="fp32"))
    rows = list(verify_golden(open_bundle(bundle), Golden(recorded), VARIANT, "hub"))
    failed = {row.stage for row in rows if not row.passed}
    assert {"logits_last", "scores"} <= failed <= {"logits_last", "scores", "tokens"}


def test_code_does_not_run_unless_it_is_trusted(checkpoint: Path, questions: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    untrusted = shutil.copytree(checkpoint, tmp_path / "untrusted")
    for path in untrusted.glob("*_valley.py"):
        path.write_text(f"open({str(witness)!r}, 'w')\n" + path.read_text().replace("from __future__", "# from"))
    finished = record(untrusted, questions, tmp_path / "golden")
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "--trust-remote-code" in finished.stderr
    assert not witness.exists()
    assert not (tmp_path / "golden").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "has no question"),
        ('{"name": "a", "prompt": "?"}\n{"name": "a", "prompt": "!"}\n', "another question is called a"),
        ('{"name": "../a", "prompt": "?"}\n', "name"),
        ('{"name": "a", "prompt": "?", "picture": "b.png"}\n', "picture"),
        ('{"name": "a", "prompt": "?", "images": ["missing.png"]}\n', "missing.png"),
    ],
)
def test_questions_that_cannot_be_asked_are_named(checkpoint: Path, tmp_path: Path, lines: str, message: str) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(lines)
    finished = record(checkpoint, questions, tmp_path / "golden", "--trust-remote-code")
    assert finished.returncode == 2, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "golden").exists()
