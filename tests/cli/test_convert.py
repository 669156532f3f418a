"""`valley2-edge convert`, and `valley2-edge export --decoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from valley2_edge import user_data
from valley2_edge.export.options import ExportOptions

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


def test_there_and_back_again(run, int4_bundle: Path, tmp_path: Path) -> None:
    there = run("convert", int4_bundle, tmp_path / "gptq")
    assert there.code == 0
    assert there.stdout == f"{tmp_path / 'gptq'}: the GPTQ checkpoint is complete\n"
    back = run("convert", tmp_path / "gptq", tmp_path / "bundle", "--vision", int4_bundle)
    assert back.code == 0
    assert back.stdout == f"{tmp_path / 'bundle'}: the bundle is complete\n"
    name = "decoder/decoder.safetensors"
    assert (tmp_path / "bundle" / name).read_bytes() == (int4_bundle / name).read_bytes()


def test_options_must_fit_the_direction(run, int4_bundle: Path, tmp_path: Path) -> None:
    outcome = run("convert", int4_bundle, tmp_path / "out", "--vision", int4_bundle)
    assert outcome.code == 2 and "--vision goes with a GPTQ checkpoint" in outcome.error
    (tmp_path / "gptq").mkdir()
    outcome = run("convert", tmp_path / "gptq", tmp_path / "out", "--checkpoint-format", "gptq")
    assert outcome.code == 2 and "--checkpoint-format goes with a new GPTQ checkpoint" in outcome.error
    outcome = run("convert", tmp_path / "gptq", tmp_path / "out")
    assert outcome.code == 2 and "name the bundle of the vision half with --vision BUNDLE" in outcome.error
    outcome = run("convert", tmp_path / "nothing", tmp_path / "out")
    assert outcome.code == 2 and "is not a directory with a bundle or a GPTQ checkpoint" in outcome.error
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(run, int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run("convert", int4_bundle, tmp_path / "out")
    assert outcome.code == 2 and "pip install valley2-edge[export]" in outcome.error


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, int4_bundle: Path, tmp_path: Path) -> dict[str, Any]:
    """What export hands to the exporter, which returns a bundle made before."""
    seen: dict[str, Any] = {}

    def export_bundle(checkpoint: str, output: Path | None, options: ExportOptions, **others: Any) -> Path:
        seen.update(vars(options))
        return int4_bundle

    monkeypatch.setattr("valley2_edge.export.pipeline.export_bundle", export_bundle)
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    return seen


def test_export_hands_the_decoder_over(run, given: dict[str, Any], tmp_path: Path) -> None:
    assert run("export", "nano", "--decoder", tmp_path, "--lm-head-precision", "fp16").code == 0
    assert (given["decoder"], given["lm_head_precision"]) == (tmp_path, "fp16")


@pytest.mark.parametrize("words", [("--precision", "int4"), ("--group-size", "64"), ("--symmetric",)])
def test_export_refuses_to_round_a_rounded_decoder(run, given: dict[str, Any], words: tuple[str, ...]) -> None:
    outcome = run("export", "nano", "--decoder", "gptq", *words)
    assert outcome.code == 2
    assert f"{words[0]} does not go with --decoder" in outcome.error
    assert not given


def test_export_names_what_is_wrong_with_the_decoder(run, tmp_path: Path) -> None:
    outcome = run("export", CHECKPOINT, "--decoder", tmp_path / "nothing", "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert "is not a directory with a GPTQ checkpoint" in outcome.error


def test_a_target_that_cannot_be_made_is_refused_before_torch_is_loaded(run, int4_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run("convert", "nano", tmp_path / "file" / "out")
    assert outcome.code == 2
    assert f"{tmp_path / 'file'} is a file, so {tmp_path / 'file' / 'out'} cannot be made" in outcome.error
    outcome = run("convert", int4_bundle, int4_bundle / "out")
    assert outcome.code == 2 and "lie inside one another" in outcome.error
