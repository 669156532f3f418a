"""The model that comes with the package: the exporter makes it of its checkpoint, and it has learned to look."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley2_edge.builtin import builtin_bundle, builtin_checkpoint
from valley2_edge.bundle import open_bundle
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.errors import BundleError, CheckpointError
from valley2_edge.eval.questions.benchmark import benchmark_questions
from valley2_edge.eval.questions.showcase import write_showcase
from valley2_edge.eval.run import ask_all
from valley2_edge.eval.scoring import score
from valley2_edge.export.checkpoint.hub import resolve_checkpoint
from valley2_edge.export.options import ExportOptions
from valley2_edge.runtime.inquiry import Inquiry
from valley2_edge.runtime.model import Valley2

LARGEST_CHECKPOINT = 24_000_000


def test_nano_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("nano") == builtin_checkpoint("nano")
    assert resolve_bundle("nano") == builtin_bundle("nano")
    assert builtin_checkpoint("micro") is None and builtin_bundle("micro") is None


def test_a_checkpoint_or_a_bundle_in_a_directory_of_that_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert resolve_checkpoint("nano") == builtin_checkpoint("nano")
    assert resolve_bundle("nano") == builtin_bundle("nano")
    (tmp_path / "nano" / "config.json").touch()
    (tmp_path / "nano" / "valley2.json").touch()
    assert resolve_checkpoint("nano") == Path("nano")
    assert resolve_bundle("nano") == Path("nano")


def test_the_variable_may_name_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALLEY2_BUNDLE", "nano")
    assert resolve_bundle() == builtin_bundle("nano")


def test_a_revision_belongs_to_the_hub() -> None:
    with pytest.raises(CheckpointError, match="nano is on this machine"):
        resolve_checkpoint("nano", revision="main")


def test_unknown_names_are_no_builtins() -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor a hub id"):
        resolve_checkpoint("micro")
    with pytest.raises(BundleError, match="not a directory"):
        open_bundle(resolve_bundle("micro"))


def test_the_checkpoint_is_small_enough_to_ship() -> None:
    checkpoint = builtin_checkpoint("nano")
    assert checkpoint is not None
    assert sum(file.stat().st_size for file in checkpoint.rglob("*")) < LARGEST_CHECKPOINT


@pytest.mark.slow
def test_the_bundle_is_what_export_makes_of_the_checkpoint(tmp_path: Path) -> None:
    from valley2_edge.export.pipeline import export_bundle
    from valley2_edge.export.rounding.options import RoundingOptions

    shipped = open_bundle(resolve_bundle("nano"), check="full")
    options = ExportOptions(precision="int4", group_size=128, rotation="none", rounding=RoundingOptions(method="rtn"))
    made = open_bundle(export_bundle("nano", tmp_path / "made", options))
    assert made.manifest.architecture == shipped.manifest.architecture
    found, expected = (bundle.manifest.decoder.model_dump() for bundle in (made, shipped))
    errors = [[matrix.pop("relative_error") for matrix in decoder["matrices"]] for decoder in (found, expected)]
    assert found == expected
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)  # torch's sums depend on its threads
    for name, entry in shipped.manifest.files.items():
        if name.startswith(("decoder/", "tokenizer/")):
            assert made.manifest.files[name].sha256 == entry.sha256, name


def test_held_out_questions_are_answered() -> None:
    tasks = ("image_understanding", "ocr", "product_understanding")
    with Valley2.load(resolve_bundle("nano"), keep_vision=True) as model:
        outcomes = ask_all(Inquiry(model.engines), benchmark_questions(6, seed=11, tasks=tasks))
    assert score(outcomes).average.value > 0.6


def test_the_showcase_is_answered(tmp_path: Path) -> None:
    exhibits = write_showcase(tmp_path)
    assert [len(exhibit.files) for exhibit in exhibits] == [1, 2, 1]
    with Valley2.load(resolve_bundle("nano"), keep_vision=True) as model:
        answers = ["".join(model.chat(exhibit.question, **exhibit.sources)) for exhibit in exhibits]
    assert answers == [exhibit.answer for exhibit in exhibits]
