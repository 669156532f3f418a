"""`valley2-edge export`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from valley2_edge import chosen_bundle, user_data
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.rounding.options import RoundingOptions

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, int4_bundle: Path, tmp_path: Path) -> dict[str, Any]:
    """What the command hands to the exporter, which returns a bundle made before."""
    seen: dict[str, Any] = {}

    def export_bundle(checkpoint: str, output: Path | None, options: ExportOptions, **others: Any) -> Path:
        others["progress"]("decoder", 1, 2)
        others["announce"]("It takes a while.")
        seen.update(vars(options), **others, checkpoint=checkpoint, output=output)
        return int4_bundle

    monkeypatch.setattr("valley2_edge.export.pipeline.export_bundle", export_bundle)
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    return seen


def test_released_checkpoint_is_the_default(run, given: dict[str, Any]) -> None:
    assert run("export").code == 0
    assert given["checkpoint"] == "bytedance-research/Valley2-DPO"
    assert (given["precision"], given["vision_precision"], given["group_size"]) == ("int4", None, None)
    assert (given["output"], given["revision"], given["overwrite"]) == (None, None, False)


def test_options_reach_the_exporter(run, given: dict[str, Any]) -> None:
    words = "--precision int8 --vision-precision fp32 --group-size 64 --symmetric --lm-head-precision fp16 --overwrite"
    assert run("export", "someone/model", *words.split(), "--output", "out", "--revision", "main").code == 0
    assert (given["checkpoint"], given["output"], given["revision"]) == ("someone/model", Path("out"), "main")
    assert (given["precision"], given["vision_precision"], given["group_size"]) == ("int8", "fp32", 64)
    assert (given["symmetric"], given["lm_head_precision"], given["overwrite"]) == (True, "fp16", True)
    assert run("export", "someone/model", "--graphs", "onnx").code == 0 and given["graphs"] == "onnx"
    assert given["rotation"] is None
    assert run("export", "someone/model", "--rotation", "none").code == 0 and given["rotation"] == "none"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--rotation hadamard --precision fp16", "--precision fp16 rounds none: leave it out"),
        (f"--rotation hadamard --decoder {CHECKPOINT}", "--rotation does not go with --decoder"),
        ("--rotation dct", "dct"),
    ],
)
def test_rotation_that_gains_nothing_is_refused_before_any_work(
    run, given: dict[str, Any], words: str, sentence: str
) -> None:
    outcome = run("export", "someone/model", *words.split())
    assert outcome.code == 2
    assert sentence in " ".join(outcome.error.split())
    assert not given


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8", "fp32"])
def test_bundle_with_towers_of_any_precision_passes_its_self_test(run, tmp_path: Path, precision: str) -> None:
    bundle = tmp_path / "bundle"
    assert run("export", CHECKPOINT, "--method", "rtn", "--vision-precision", precision, "--output", bundle).code == 0
    rows = json.loads(run("inspect", bundle, "--json").stdout)["components"]
    found = {row["name"]: row["precision"] for row in rows if row["name"] in ("siglip", "projector", "eagle")}
    assert found == {
        "siglip": precision,
        "projector": "bf16" if precision == "int8" else precision,
        "eagle": precision,
    }
    assert run("verify", bundle).code == 0


def test_vision_precision_that_towers_do_not_have_is_refused(run, tmp_path: Path) -> None:
    outcome = run("export", CHECKPOINT, "--vision-precision", "fp16", "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert "fp16" in outcome.error
    assert not (tmp_path / "bundle").exists()


def test_bundle_is_remembered_and_the_next_step_said(run, given: dict[str, Any], int4_bundle: Path) -> None:
    outcome = run("export", "nano")
    assert chosen_bundle.last_bundle() == int4_bundle
    assert f"{int4_bundle}: " in outcome.stdout
    assert "Next: valley2-edge chat picture.jpg" in outcome.stdout
    assert outcome.stderr.splitlines() == ["loading torch", "decoder", "It takes a while.", "checking files"]


def test_bundle_that_cannot_be_remembered_is_no_failure(
    run, given: dict[str, Any], int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "file" / "data"))
    outcome = run("export", "nano")
    assert outcome.code == 0
    assert "could not be remembered" in outcome.stderr
    assert f"chat --bundle {int4_bundle}" in outcome.stdout


def test_the_next_line_may_be_pasted_whatever_the_name(
    run, given: dict[str, Any], int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "it's my bundle"
    bundle.symlink_to(int4_bundle)
    monkeypatch.setattr("valley2_edge.export.pipeline.export_bundle", lambda *_, **__: bundle)
    (tmp_path / "file").touch()
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "file" / "data"))
    line = next(line for line in run("export", "nano").stdout.splitlines() if line.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: "))
    assert words == ["valley2-edge", "chat", "--bundle", str(bundle.resolve()), "picture.jpg", "What is this?"]


def test_missing_packages_are_named_with_the_extra(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import valley2_edge.cli.main  # noqa: F401

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run("export", "nano")
    assert outcome.code == 2
    assert "torch, transformers, onnx" in outcome.error
    assert "pip install valley2-edge[export]" in outcome.error


def test_unknown_precision_is_refused_before_any_work(run) -> None:
    outcome = run("export", CHECKPOINT, "--precision", "int3")
    assert outcome.code == 2
    assert "int3" in outcome.error


@pytest.mark.slow
def test_a_bundle_in_nf4_says_so_and_answers(run, picture: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "nf4"
    assert run("export", CHECKPOINT, "--precision", "int4", "--method", "nf4", "--output", bundle).code == 0
    assert "rounding: nf4; largest relative error" in run("inspect", bundle).stdout
    rows = json.loads(run("inspect", bundle, "--json").stdout)["components"]
    assert [row["precision"] for row in rows if row["name"] == "decoder"] == [
        "int4, groups of 64 and 128, nf4, lm_head int8"
    ]
    assert run("verify", bundle).code == 0
    outcome = run("chat", picture, "What is it?", "--bundle", bundle, "--max-new-tokens", 3, "--stats")
    assert outcome.code == 0
    # A decoder of random weights may end its answer early, and where depends on the instruction set.
    assert re.search(r"answer\W+[0-3] tokens", outcome.stderr) and "ended by" in outcome.stderr


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_nf4_has_four_bits(run, tmp_path: Path, precision: str) -> None:
    outcome = run("export", CHECKPOINT, "--precision", precision, "--method", "nf4", "--output", tmp_path / "b")
    assert outcome.code == 2
    assert f"nf4 is a code of four bits: it cannot be stored as {precision}" in outcome.error


def test_nf4_has_no_zero_points(run, tmp_path: Path) -> None:
    outcome = run("export", CHECKPOINT, "--method", "nf4", "--asymmetric", "--output", tmp_path / "b")
    assert outcome.code == 2
    assert "nf4 has no zero points: --asymmetric does not go with --method nf4" in outcome.error


def test_rounding_options_reach_the_exporter(run, given: dict[str, Any], tmp_path: Path) -> None:
    samples = tmp_path / "my.jsonl"
    samples.touch()
    words = "--picture-weight balanced --column-order columns --no-scale-search --memory 2GiB --max-kl 0.03"
    assert run("export", "nano", "--calibration", samples, *words.split(), "--average-bits", "5").code == 0
    rounding = given["rounding"]
    assert (rounding.method, rounding.calibration, rounding.picture_weight) == (
        None,
        f"{tmp_path}/my.jsonl",
        "balanced",
    )
    assert (rounding.gptq.order, rounding.gptq.scale_search, rounding.gptq.damping) == ("columns", False, 0.01)
    assert (rounding.budget_bytes, rounding.max_kl, rounding.average_bits) == (2 << 30, 0.03, 5)


def test_method_and_set_are_left_to_the_exporter_unless_they_are_named(run, given: dict[str, Any]) -> None:
    assert run("export", "nano").code == 0
    assert given["rounding"] == RoundingOptions()
    assert run("export", "nano", "--method", "rtn").code == 0
    assert given["rounding"] == RoundingOptions(method="rtn")


@pytest.mark.slow
def test_int4_is_rounded_by_gptq_after_a_sentence_that_says_how_long(run, tmp_path: Path) -> None:
    words = ["export", CHECKPOINT, "--calibration-samples", "2", "--group-size", "64", "--output"]
    outcome = run(*words, tmp_path / "default")
    assert outcome.code == 0
    lines = outcome.stderr.splitlines()
    (place,) = [index for index, line in enumerate(lines) if line.startswith("GPTQ on 2 samples (")]
    assert "; --method rtn takes a few minutes at most and loses" in lines[place]
    assert place < lines.index("decoder")
    assert "rounding: gptq;" in run("inspect", tmp_path / "default").stdout
    outcome = run(*words, tmp_path / "nearest", "--method", "rtn")
    assert outcome.code == 0 and "GPTQ" not in outcome.stderr
    assert "rounding: rtn;" in run("inspect", tmp_path / "nearest").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "much"], "--memory: 'much' is no amount of memory: write for example 8GiB"),
        (["--picture-weight", "heavy"], "--picture-weight is a number from 0 up or balanced"),
        (["--picture-weight", "-1"], "--picture-weight is a number from 0 up or balanced"),
        (["--damping", "7"], "--damping is a share of the mean diagonal above 0 and up to 1, not 7"),
        (["--descent-passes", "99"], "--descent-passes must be 0 to 16, not 99"),
        (["--group-size", "48"], "--group-size must be 32, 64 or 128, not 48"),
        (["--average-bits", "0"], "--average-bits must be above 0, not 0"),
        (["--calibration-samples", "0"], "--calibration-samples must be at least 1, not 0"),
        (["--quality-samples", "-1"], "--quality-samples must be 0 or more, not -1"),
        (["--max-kl", "0"], "--max-kl must be above 0, not 0"),
        (["--calibration", "none.jsonl"], "there is no file at --calibration none.jsonl: name a JSONL file or builtin"),
        (["--decoder", "nowhere"], "--decoder nowhere is not a directory with a GPTQ checkpoint"),
        (["--output", f"{CHECKPOINT}/config.json/x"], "config.json is a file, so"),
        (["--output", str(CHECKPOINT.parent)], "exists and is not a bundle: choose another --output"),
        (["--revision", "main"], "--revision main belongs to a hub id"),
    ],
)
def test_options_that_mean_nothing_are_refused_as_typed_before_torch_is_loaded(
    run, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    # Whatever comes behind the checks of the options asks for the packages first.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: pytest.fail("the options were not checked first"))
    outcome = run("export", "nano", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.error


def test_an_output_inside_the_checkpoint_is_refused(run) -> None:
    outcome = run("export", CHECKPOINT, "--output", CHECKPOINT / "bundle")
    assert outcome.code == 2 and "lie inside one another" in outcome.error
    outcome = run("export", CHECKPOINT, "--output", CHECKPOINT.parent, "--overwrite")
    assert outcome.code == 2 and "lie inside one another" in outcome.error


def test_options_are_checked_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from valley2_edge.cli.main import main; "
        "main(['export', 'nano', '--max-kl', '0.1', '--quality-samples', '0']); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "[]\n"
    assert "--max-kl needs a measured quality: --quality-samples must be above 0" in done.stderr
