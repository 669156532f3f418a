"""The measured quality: what is kept of distributions, exact answers from drafts, and a bundle end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from valley2_edge import Valley2
from valley2_edge.bundle import open_bundle
from valley2_edge.calibration.builtin import builtin_set
from valley2_edge.calibration.dialogues import read_dialogues
from valley2_edge.calibration.encode import SampleEncoder
from valley2_edge.errors import ExportError, InputError
from valley2_edge.eval.text import measure_text
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.embedding_table import EmbeddingTable
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.quality.answer_statistics import compare_logits, join_top_logits, top_logits
from valley2_edge.export.quality.greedy_reference import Tokens, greedy_answers
from valley2_edge.export.quality.survey import check_max_kl
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.rounding.rounder import Rounding, resolve_rounding
from valley2_edge.export.vision.sample_encoder import encode_all
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.method import MethodName
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.vision.encoder import VisionEncoder

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
STOP = 9


def _kl(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The whole divergence, by torch."""
    log_a, log_b = (logits.double().log_softmax(dim=1) for logits in (reference, other))
    return (log_a.exp() * (log_a - log_b)).sum(dim=1)


def _logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = 3 * torch.randn(6, 50, generator=generator)
    other = reference + torch.randn(6, 50, generator=generator)
    return reference, other, torch.randint(50, (6,), generator=generator)


def test_kl_is_exact_when_every_logit_is_kept() -> None:
    reference, other, targets = _logits()
    kept = top_logits(reference.split(7, dim=1), targets, kept=50)
    found = compare_logits(kept, other, targets)
    assert torch.allclose(found.kl, _kl(reference, other), atol=1e-9)
    assert found.tail.max() < 1e-12


def test_kl_over_the_likeliest_tokens_is_a_close_lower_bound() -> None:
    reference, other, targets = _logits()
    found = compare_logits(top_logits(reference.split(7, dim=1), targets, kept=8), other, targets)
    exact = _kl(reference, other)
    assert (found.kl <= exact + 1e-9).all()
    assert (found.kl > 0.5 * exact).all()
    assert torch.allclose(found.tail, 1 - reference.double().softmax(dim=1).topk(8, dim=1).values.sum(dim=1))


def test_surprise_and_the_likeliest_token_are_those_of_torch() -> None:
    reference, other, targets = _logits()
    found = compare_logits(top_logits([reference], targets), other, targets)
    losses = [torch.nn.functional.cross_entropy(logits, targets, reduction="none") for logits in (other, reference)]
    assert torch.allclose(found.surprise.float(), losses[0] - losses[1], atol=1e-5)
    assert found.same_top.tolist() == (reference.argmax(dim=1) == other.argmax(dim=1)).tolist()


class _Teacher:
    """A model that always says one text, whatever was said before."""

    def __init__(self, *texts: Tokens) -> None:
        self.texts = texts
        self.runs = 0

    def __call__(self, asked: Sequence[tuple[int, Tokens]]) -> list[Tokens]:
        self.runs += 1
        return [tuple((*self.texts[index], *[STOP] * 9)[: len(draft) + 1]) for index, draft in asked]


def test_a_right_draft_needs_one_run() -> None:
    teacher = _Teacher((1, 2, STOP), (3, STOP))
    found = greedy_answers([(1, 2, STOP), (3, STOP)], teacher, lambda *_: (), (STOP,), (8, 8), 6)
    assert found.answers == [(1, 2, STOP), (3, STOP)]
    assert (found.runs, found.inexact, teacher.runs) == (1, 0, 1)


def test_every_difference_is_corrected_and_the_draft_goes_on() -> None:
    teacher = _Teacher((1, 2, 3, 4, STOP))
    continued = []

    def go_on(index: int, begin: Tokens) -> Tokens:
        continued.append(begin)
        return (*begin, 3, 5, 5)

    found = greedy_answers([(1, 7, 7)], teacher, go_on, (STOP,), (8,), 6)
    assert found.answers == [(1, 2, 3, 4, STOP)]
    assert continued == [(1, 2), (1, 2, 3, 4)]


def test_an_answer_ends_at_its_limit() -> None:
    teacher = _Teacher((1, 2, 3, 4, STOP))
    found = greedy_answers([(1, 2)], teacher, lambda _, begin: (*begin, 4), (STOP,), (3,), 6)
    assert found.answers == [(1, 2, 3)]


def test_answers_that_need_too_many_runs_are_counted() -> None:
    teacher = _Teacher((1, 2, 3, 4, STOP))
    found = greedy_answers([(7,)], teacher, lambda _, begin: (*begin, 7), (STOP,), (8,), 2)
    assert (found.runs, found.inexact) == (2, 1)


def test_int4_is_rounded_by_gptq_on_the_builtin_set_and_not_measured() -> None:
    default = resolve_rounding(RoundingOptions(), "int4", False)
    assert (default.method, default.calibration, default.quality_samples) == ("gptq", builtin_set(), 0)
    assert resolve_rounding(RoundingOptions(max_kl=0.1), "int4", False).quality_samples == 32


@pytest.mark.parametrize("method", ["rtn", "nf4"])
def test_other_methods_take_no_set_by_themselves(method: MethodName) -> None:
    found = resolve_rounding(RoundingOptions(method=method), "int4", False)
    assert (found.method, found.calibration, found.quality_samples) == (method, None, 0)


@pytest.mark.parametrize(("precision", "elsewhere"), [("int8", False), ("fp16", False), ("int4", True)])
def test_nothing_else_is_rounded_by_gptq_unasked(precision: DecoderPrecision, elsewhere: bool) -> None:
    found = resolve_rounding(RoundingOptions(), precision, elsewhere)
    assert (found.method, found.calibration) == ("rtn", None)


def test_a_calibration_set_decides_the_method_and_is_measured() -> None:
    for precision in ("int4", "int8"):
        with_set = resolve_rounding(RoundingOptions(calibration="builtin", calibration_samples=1), precision, False)
        assert (with_set.method, with_set.quality_samples) == ("gptq", 32)
    by_itself = resolve_rounding(RoundingOptions(method="gptq", calibration_samples=1), "int4", False)
    assert by_itself.calibration == with_set.calibration


def test_a_file_gives_more_samples_than_the_builtin_set(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    path.write_text("".join(f'{{"prompt": "{number}?", "answer": "Yes."}}\n' for number in range(200)), "utf-8")
    found = resolve_rounding(RoundingOptions(calibration=path), "int8", False)
    assert found.calibration is not None and len(found.calibration.samples) == 128


@pytest.mark.parametrize(
    ("options", "precision", "message"),
    [
        (RoundingOptions(method="nf4", average_bits=5), "int4", "does not go with --method nf4"),
        (RoundingOptions(method="gptq"), "fp16", "rounds nothing"),
        (RoundingOptions(max_kl=-1.0), "int4", "--max-kl must be above 0"),
        (RoundingOptions(max_kl=1.0, quality_samples=0), "int4", "--max-kl needs"),
        (RoundingOptions(calibration_samples=0), "int4", "--calibration-samples"),
    ],
)
def test_options_that_contradict_one_another_are_refused(
    options: RoundingOptions, precision: str, message: str
) -> None:
    with pytest.raises((ExportError, InputError), match=message):
        resolve_rounding(options, precision, False)  # type: ignore[arg-type]


def test_the_unrounded_bundle_is_its_own_reference(tmp_path: Path) -> None:
    options = RoundingOptions(quality_samples=1, max_kl=1e-6)
    bundle = export_bundle(CHECKPOINT, tmp_path / "b", ExportOptions(precision="fp32", rounding=options))
    quality = open_bundle(bundle).manifest.quality
    assert quality["mean_kl"]["value"] < 1e-8
    assert quality["same_top"]["value"] == 1
    assert quality["perplexity_ratio"]["value"] == pytest.approx(1, abs=1e-4)
    assert quality["character_error_rate"]["change"] == 0
    assert quality["held_out"]["reference_runs"] == 1


def test_a_calibrated_bundle_says_how_good_it_is(tmp_path: Path) -> None:
    options = RoundingOptions(method="gptq", calibration_samples=1, quality_samples=1)
    bundle = export_bundle(CHECKPOINT, tmp_path / "b", ExportOptions(group_size=64, rounding=options))
    manifest = open_bundle(bundle, check="full").manifest
    assert manifest.decoder.method == "gptq"
    assert manifest.source.calibration_sha256 == manifest.quality["calibration"]["sha256"]
    assert all(matrix.output_error is not None for matrix in manifest.decoder.matrices)
    assert {"mean_kl", "same_top", "perplexity_ratio", "character_error_rate", "ecom_vqa"} <= set(manifest.quality)
    report = (bundle / "report.html").read_text("utf-8")
    assert "report.html" in manifest.files
    assert "<svg" in report and "layers.1.mlp.down" in report and "http" not in report
    assert not (bundle / "workspace").exists()
    json.dumps(manifest.quality, allow_nan=False)


def test_distributions_do_not_depend_on_how_positions_are_cut() -> None:
    reference, _, targets = _logits()
    whole = top_logits([reference], targets, kept=8)
    parts = [top_logits([reference[rows]], targets[rows], kept=8) for rows in (slice(0, 2), slice(2, 6))]
    joined = join_top_logits(parts)
    assert torch.equal(joined.tokens, whole.tokens)
    assert torch.equal(joined.log_probabilities, whole.log_probabilities)
    assert torch.equal(joined.target_log_probabilities, whole.target_log_probabilities)


def _own_file(directory: Path, lines: int) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "own.jsonl"
    answer = "They cost $5.20, or more. " * 6  # more tokens than one block of logits has rows
    content = [{"prompt": f"What do {number} lamps cost?", "answer": f"{number}: {answer}"} for number in range(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in content), "utf-8")
    return path


def test_a_file_of_the_users_own_is_held_out_in_part_and_measured(
    tmp_path: Path, fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valley2_edge.export.quality.unrounded_model._HEAD_POSITIONS", 50)
    path = _own_file(tmp_path / "in", 16)
    options = RoundingOptions(calibration=path, quality_samples=2)
    bundle = export_bundle(CHECKPOINT, tmp_path / "b", ExportOptions(group_size=64, rounding=options))
    manifest = open_bundle(bundle).manifest
    quality, own = manifest.quality, manifest.quality["own_text"]
    assert (own["name"], own["samples"], quality["held_out"]["samples"]) == ("own.jsonl", 2, 2)
    assert (quality["calibration"]["name"], quality["calibration"]["samples"]) == ("own.jsonl", 14)
    assert "Quality on your own text" in (bundle / "report.html").read_text("utf-8")

    # The same by the command for texts: the unrounded bundle, the run time's own prompts and the whole vocabulary.
    held_out = read_dialogues(path)[0][4::8]  # lines 5 and 13
    with Valley2.load(bundle) as rounded, Valley2.load(fp32_bundle) as unrounded:
        found = measure_text(rounded, held_out, unrounded)
    assert found.distance is not None and found.tokens == own["positions"] > 2 * 64
    assert own["same_top"]["value"] == pytest.approx(found.distance.same_top.value, abs=0.02)
    assert own["perplexity"]["value"] == pytest.approx(found.perplexity.value, rel=1e-3)
    assert own["perplexity"]["reference"] == pytest.approx(found.distance.reference_perplexity.value, rel=1e-3)
    assert own["perplexity_ratio"]["value"] == pytest.approx(found.distance.perplexity_ratio.value, rel=1e-3)
    # Over the 64 likeliest tokens KL is a lower bound.
    assert 0.3 * found.distance.mean_kl.value < own["mean_kl"]["value"] <= found.distance.mean_kl.value * 1.001


def test_own_text_decides_about_max_kl() -> None:
    figures = {"mean_kl": {"value": 0.01}, "own_text": {"name": "own.jsonl", "mean_kl": {"value": 0.3}}}
    with pytest.raises(ExportError, match=r"on the held-out lines of own\.jsonl is 0\.3, more than --max-kl 0\.1"):
        check_max_kl(figures, 0.1)
    check_max_kl(figures, 0.5)
    check_max_kl({"mean_kl": {"value": 0.01}}, 0.1)
    check_max_kl({"mean_kl": {"value": 0.3}, "own_text": {"name": "own.jsonl", "mean_kl": {"value": 0.01}}}, 0.1)


def test_what_is_held_out_follows_the_number_of_samples(tmp_path: Path) -> None:
    path = _own_file(tmp_path, 40)

    def resolved(**given: Any) -> Rounding:
        return resolve_rounding(RoundingOptions(calibration=path, **given), "int4", False)

    def held_out(rounding: Rounding) -> int:
        return 0 if rounding.own_text is None else len(rounding.own_text.samples)

    plain, fewer, none = resolved(), resolved(quality_samples=3), resolved(quality_samples=0)
    assert [held_out(rounding) for rounding in (plain, fewer, none)] == [5, 3, 0]
    assert [len(one.calibration.samples) for one in (plain, fewer, none) if one.calibration] == [35, 37, 40]
    assert plain.identity() != fewer.identity()
    built_in = resolve_rounding(RoundingOptions(calibration="builtin", calibration_samples=1), "int4", False)
    assert built_in.own_text is None


def test_the_vision_engines_leave_their_memory_to_the_decoder(int4_bundle: Path) -> None:
    loaded: list[frozenset[str]] = []
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        vision = VisionEncoder(open_bundle(int4_bundle), threads=1, keep=True)
        encoder = SampleEncoder(checkpoint.config, Tokenizer(checkpoint.path), vision, EmbeddingTable(checkpoint))
        encoded = list(encode_all(encoder, builtin_set(2).samples, lambda *_: loaded.append(vision.loaded)))
    assert len(encoded) == 2
    assert loaded == 2 * [{"siglip", "projector", "eagle"}]  # between samples they stay
    assert vision.loaded == frozenset()


def test_a_bundle_above_the_limit_is_not_published(tmp_path: Path) -> None:
    options = RoundingOptions(method="rtn", quality_samples=1, max_kl=1e-9)
    with pytest.raises(ExportError, match=r"more than --max-kl 1e-09: nothing was published"):
        export_bundle(CHECKPOINT, tmp_path / "b", ExportOptions(rounding=options))
    assert list(tmp_path.iterdir()) == []
