"""`valley2-edge export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from valley2_edge import user_data
from valley2_edge.export import pipeline

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, int4_bundle: Path, tmp_path: Path) -> dict[str, Any]:
    """What the command hands to the exporter, which returns a bundle made before."""
    seen: dict[str, Any] = {}

    def export_bundle(checkpoint: str, output: Path | None, **options: Any) -> Path:
        options["progress"]("decoder", 1, 2)
        options["announce"]("It takes a while.")
        seen.update(options, checkpoint=checkpoint, output=output)
        return int4_bundle

    monkeypatch.setattr(pipeline, "export_bundle", export_bundle)
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    return seen


def test_released_checkpoint_is_the_default(run, given: dict[str, Any]) -> None:
    assert run("export").code == 0
    assert given["checkpoint"] == "bytedance-research/Valley2-DPO"
    assert (given["precision"], given["vision_precision"], given["group_size"]) == ("int4", None, 128)
    assert given["projector_precision"] is None
    assert (given["output"], given["revision"], given["overwrite"]) == (None, None, False)


def test_options_reach_the_exporter(run, given: dict[str, Any]) -> None:
    words = "--precision int8 --vision-precision fp32 --group-size 64 --symmetric --lm-head-precision fp16 --overwrite"
    assert run("export", "x", *words.split(), "--output", "out", "--revision", "main").code == 0
    assert (given["checkpoint"], given["output"], given["revision"]) == ("x", Path("out"), "main")
    assert (given["precision"], given["vision_precision"], given["group_size"]) == ("int8", "fp32", 64)
    assert (given["symmetric"], given["lm_head_precision"], given["overwrite"]) == (True, "fp16", True)


def test_projector_has_its_own_precision(run, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    words = ("--vision-precision", "bf16", "--projector-precision", "int8", "--output", bundle)
    assert run("export", CHECKPOINT, *words).code == 0
    rows = json.loads(run("inspect", bundle, "--json").stdout)["components"]
    assert {row["name"]: row["precision"] for row in rows if row["name"] in ("siglip", "projector")} == {
        "siglip": "bf16",
        "projector": "int8",
    }
    assert (bundle / "vision" / "projector.onnx").is_file()
    assert run("verify", bundle).code == 0


@pytest.mark.parametrize("precision", ["int4", "bf16"])
def test_projector_precision_without_a_graph_is_refused(run, tmp_path: Path, precision: str) -> None:
    outcome = run("export", CHECKPOINT, "--projector-precision", precision, "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert precision in outcome.error
    assert not (tmp_path / "bundle").exists()


def test_bundle_is_remembered_and_the_next_step_said(run, given: dict[str, Any], int4_bundle: Path) -> None:
    outcome = run("export", "x")
    assert user_data.last_bundle() == int4_bundle
    assert f"{int4_bundle}: " in outcome.stdout
    assert "Next: valley2-edge chat picture.jpg" in outcome.stdout
    assert outcome.stderr.splitlines() == ["decoder", "It takes a while."]


def test_bundle_that_cannot_be_remembered_is_no_failure(
    run, given: dict[str, Any], int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "file" / "data"))
    outcome = run("export", "x")
    assert outcome.code == 0
    assert "could not be remembered" in outcome.stderr
    assert f"chat --bundle {int4_bundle}" in outcome.stdout


def test_missing_packages_are_named_with_the_extra(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import valley2_edge.cli.main  # noqa: F401

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run("export", "x")
    assert outcome.code == 2
    assert "torch, transformers, onnx" in outcome.error
    assert "pip install valley2-edge[export]" in outcome.error


def test_unknown_precision_is_refused_before_any_work(run) -> None:
    outcome = run("export", CHECKPOINT, "--precision", "int3")
    assert outcome.code == 2
    assert "int3" in outcome.error


def test_a_bundle_in_nf4_says_so_and_answers(run, picture: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "nf4"
    assert run("export", CHECKPOINT, "--precision", "int4", "--method", "nf4", "--output", bundle).code == 0
    assert "rounding: nf4; largest relative error" in run("inspect", bundle).stdout
    rows = json.loads(run("inspect", bundle, "--json").stdout)["components"]
    assert [row["precision"] for row in rows if row["name"] == "decoder"] == ["int4, groups of 128, nf4, lm_head int8"]
    assert run("verify", bundle).code == 0
    outcome = run("chat", picture, "What is it?", "--bundle", bundle, "--max-new-tokens", 3, "--stats")
    assert outcome.code == 0
    assert "3 tokens" in outcome.stderr


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_nf4_has_four_bits(run, tmp_path: Path, precision: str) -> None:
    outcome = run("export", CHECKPOINT, "--precision", precision, "--method", "nf4", "--output", tmp_path / "b")
    assert outcome.code == 2
    assert f"nf4 is a code of four bits: it cannot be stored as {precision}" in outcome.error


def test_nf4_has_no_zero_points(run, tmp_path: Path) -> None:
    outcome = run("export", CHECKPOINT, "--method", "nf4", "--asymmetric", "--output", tmp_path / "b")
    assert outcome.code == 2
    assert "nf4 has no zero points: --asymmetric does not go with --method nf4" in outcome.error


def test_rounding_options_reach_the_exporter(run, given: dict[str, Any]) -> None:
    words = "--calibration my.jsonl --picture-weight balanced --column-order columns --no-scale-search --memory 2GiB"
    assert run("export", "x", *words.split(), "--max-kl", "0.03", "--average-bits", "5").code == 0
    rounding = given["rounding"]
    assert (rounding.method, rounding.calibration, rounding.picture_weight) == (None, "my.jsonl", "balanced")
    assert (rounding.gptq.order, rounding.gptq.scale_search, rounding.gptq.damping) == ("columns", False, 0.01)
    assert (rounding.budget_bytes, rounding.max_kl, rounding.average_bits) == (2 << 30, 0.03, 5)


def test_no_calibration_is_the_default_and_can_be_said(run, given: dict[str, Any]) -> None:
    for words in ([], ["--calibration", "none"]):
        assert run("export", "x", *words).code == 0
        assert given["rounding"].calibration is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "much"], "write for example 8GiB"),
        (["--picture-weight", "heavy"], "--picture-weight is a number from 0 up or balanced"),
        (["--damping", "7"], "the damping 7.0 is not a share"),
    ],
)
def test_rounding_options_that_mean_nothing_are_refused(
    run, given: dict[str, Any], words: list[str], message: str
) -> None:
    outcome = run("export", "x", *words)
    assert outcome.code == 2
    assert message in outcome.stderr
