"""Perplexity and divergence on a text, beside plain float64 arithmetic on logits that are computed in one go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from valley2_edge import InputError, Valley2
from valley2_edge.calibration.encode import SampleEncoder
from valley2_edge.calibration.samples import Sample, Turn
from valley2_edge.errors import BudgetError, NumericError
from valley2_edge.eval import text as text_module
from valley2_edge.eval.intervals import bootstrap_ratio
from valley2_edge.eval.passages import Dialogue, Window, windows_of
from valley2_edge.eval.text import PERCENTILES, TextMeasure, measure_text
from valley2_edge.eval.text_memory import check_text_memory
from valley2_edge.options import LoadOptions

TEXT = "A red mug stands beside 12 lamps. It costs $5.20, and nobody buys it.\n" * 12
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
DIALOGUES = [
    Dialogue("line 1", "What is it?", "A red mug that costs $5.20.", images=(PIXELS,)),
    Dialogue("line 2", "Name three lamps.", "Floor lamps, table lamps and string lights. " * 4),
    Dialogue("line 3", "What happens?", "It moves.", video=(PIXELS, PIXELS[::-1])),
]
LogProbabilities = NDArray[np.float64]


@pytest.fixture(scope="module")
def windows(fp32: Valley2) -> list[Window]:
    return windows_of(TEXT, fp32.engines.tokenizer, 100)


def softmax(logits: NDArray[np.float32]) -> LogProbabilities:
    """Logarithms of the probabilities, (n, vocabulary)."""
    wide = np.asarray(logits, np.float64)
    largest = wide.max(axis=1, keepdims=True)
    return wide - largest - np.log(np.exp(wide - largest).sum(axis=1, keepdims=True))


def window_probabilities(model: Valley2, window: Window) -> LogProbabilities:
    """The model's distributions at a window's tokens, from one prefill."""
    ids = np.array([*window.before, *window.tokens[:-1]], np.int32)
    with model.engines.decoder.session() as session:
        session.prefill([ids], logit_rows=len(window.tokens))
        return softmax(session.logits(len(window.tokens)))


def dialogue_probabilities(model: Valley2, dialogue: Dialogue) -> tuple[LogProbabilities, tuple[int, ...]]:
    """The same of a dialogue, by the encoder that calibration uses, and the answer's tokens."""
    engines = model.engines
    encoder = SampleEncoder(engines.architecture, engines.tokenizer, engines.vision, engines.decoder.embed)
    turns = (Turn(dialogue.prompt, dialogue.answer),)
    encoded = encoder.encode(Sample(dialogue.name, turns, dialogue.images, dialogue.video))
    (branch,) = encoded.branches
    with engines.decoder.session() as session:
        session.prefill([encoded.embeddings], logit_rows=len(branch.answer))
        return softmax(session.logits(len(branch.answer))), branch.answer


def expect(
    found: TextMeasure, ours: Sequence[LogProbabilities], theirs: Sequence[LogProbabilities], tokens: Sequence[int]
) -> None:
    """Compares a measure with what the distributions of both models say, by the definitions."""
    log_b, log_a, rows = np.concatenate(ours), np.concatenate(theirs), np.arange(len(tokens))
    kl = (np.exp(log_a) * (log_a - log_b)).sum(axis=1)
    perplexities = [np.exp(-log[rows, tokens].mean()) for log in (log_b, log_a)]
    assert (found.passages, found.tokens) == (len(ours), len(tokens))
    assert found.perplexity.value == pytest.approx(perplexities[0], rel=1e-5)
    distance = found.distance
    assert distance is not None
    assert distance.reference_perplexity.value == pytest.approx(perplexities[1], rel=1e-5)
    assert distance.perplexity_ratio.value == pytest.approx(perplexities[0] / perplexities[1], rel=1e-5)
    assert distance.mean_kl.value == pytest.approx(kl.mean(), rel=1e-4)
    assert distance.same_top.value == pytest.approx((log_a.argmax(axis=1) == log_b.argmax(axis=1)).mean())
    for percent in PERCENTILES:
        wanted = np.percentile(kl, percent, method="inverted_cdf")
        assert distance.kl_percentiles[percent].value == pytest.approx(wanted, rel=1e-3)
    assert distance.largest_kl == pytest.approx(kl.max(), rel=1e-3)


def test_windows_are_measured_as_by_hand(fp32: Valley2, int4: Valley2, windows: list[Window]) -> None:
    assert len(windows) > 3 and len(windows[0].tokens) == 99  # more rows than one block of logits has
    found = measure_text(int4, windows, fp32)
    ours, theirs = ([window_probabilities(model, window) for window in windows] for model in (int4, fp32))
    expect(found, ours, theirs, [token for window in windows for token in window.tokens])
    assert found.distance is not None and found.distance.mean_kl.value > 1e-4


def test_answers_are_measured_with_the_pictures_of_each_bundle(fp32: Valley2, int4: Valley2) -> None:
    found = measure_text(int4, DIALOGUES, fp32)
    ours = [dialogue_probabilities(int4, dialogue) for dialogue in DIALOGUES]
    theirs = [dialogue_probabilities(fp32, dialogue) for dialogue in DIALOGUES]
    tokens = [token for _, answer in ours for token in answer]
    assert len(ours[1][1]) > 64 and tokens[len(ours[0][1]) - 1] == fp32.engines.architecture.stop_tokens[0]
    expect(found, [log for log, _ in ours], [log for log, _ in theirs], tokens)


def test_intervals_hold_the_values_and_repeat_themselves(fp32: Valley2, int4: Valley2, windows: list[Window]) -> None:
    found = measure_text(int4, windows, fp32)
    distance = found.distance
    assert distance is not None
    every = (distance.mean_kl, distance.same_top, distance.perplexity_ratio, *distance.kl_percentiles.values())
    assert all(one.low <= one.value <= one.high for one in (found.perplexity, distance.reference_perplexity, *every))
    assert distance.mean_kl.low < distance.mean_kl.high
    assert distance.kl_percentiles[99].high <= distance.largest_kl
    assert measure_text(int4, windows, fp32) == found


def test_the_ratio_is_of_the_same_windows_in_every_draw(fp32: Valley2, int4: Valley2, windows: list[Window]) -> None:
    rows = [np.arange(len(window.tokens)) for window in windows]
    losses = [
        [
            -window_probabilities(model, window)[row, list(window.tokens)].sum()
            for window, row in zip(windows, rows, strict=True)
        ]
        for model in (int4, fp32)
    ]
    change = bootstrap_ratio(np.subtract(*losses), [len(row) for row in rows])
    distance = measure_text(int4, windows, fp32).distance
    assert distance is not None
    found = distance.perplexity_ratio
    assert (found.low, found.high) == pytest.approx((np.exp(change.low), np.exp(change.high)), rel=1e-5)


def test_without_a_reference_there_is_the_perplexity_alone(fp32: Valley2, int4: Valley2, windows: list[Window]) -> None:
    alone = measure_text(int4, windows)
    assert alone.distance is None
    assert alone.perplexity == measure_text(int4, windows, fp32).perplexity


def test_a_bundle_is_not_apart_from_itself(fp32: Valley2, windows: list[Window]) -> None:
    distance = measure_text(fp32, windows[:2], fp32).distance
    assert distance is not None
    assert (distance.largest_kl, distance.same_top.value, distance.perplexity_ratio.value) == (0, 1, 1)


def test_the_precision_of_the_kv_cache_is_the_bundles_alone(fp32: Valley2, windows: list[Window]) -> None:
    exact = measure_text(fp32, windows[:2], fp32)
    rounded = measure_text(fp32, windows[:2], fp32, kv_precision="int8")
    assert rounded.distance is not None and exact.distance is not None
    assert rounded.distance.mean_kl.value > 0
    assert rounded.distance.reference_perplexity == exact.distance.reference_perplexity


def test_the_caller_hears_how_far_it_is(fp32: Valley2, windows: list[Window]) -> None:
    heard: list[tuple[int, int]] = []
    measure_text(fp32, windows[:2], on_progress=lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2), (2, 2)]


def test_what_cannot_be_measured_is_refused(fp32: Valley2, int4: Valley2, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no text"):
        measure_text(fp32, [])
    context = fp32.engines.architecture.decoder.max_position_embeddings
    with pytest.raises(InputError, match=f"A window of {context + 1} tokens is longer than the context of {context}"):
        measure_text(fp32, [Window((0,), (1,) * context)])
    with pytest.raises(InputError, match=r"line 9: .*gone\.png"):
        measure_text(fp32, [Dialogue("line 9", "What?", "That.", images=(Path("gone.png"),))])
    decoder = int4.bundle.manifest.architecture.decoder
    monkeypatch.setattr(
        type(int4),
        "bundle",
        property(
            lambda model: (
                model._bundle
                if model is fp32
                else with_decoder(model._bundle, decoder.model_copy(update={"vocab_size": decoder.vocab_size + 64}))
            )
        ),
    )
    with pytest.raises(InputError, match=r"have vocabularies of \d+ and \d+ tokens"):
        measure_text(int4, [Window((0,), (1,))], fp32)


def with_decoder(bundle, decoder):
    """The bundle as if its decoder had other sizes."""
    architecture = bundle.manifest.architecture.model_copy(update={"decoder": decoder})
    manifest = bundle.manifest.model_copy(update={"architecture": architecture})
    return type(bundle)(bundle.directory, manifest, bundle.stamps)


def test_a_perplexity_beyond_numbers_is_said(
    fp32: Valley2, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "_LARGEST_LOSS", 1.0)
    with pytest.raises(NumericError, match="nats a token"):
        measure_text(fp32, windows)


def test_memory_counts_every_bundle_that_is_open(fp32: Valley2, int4: Valley2, windows: list[Window]) -> None:
    both = [(int4, LoadOptions(), "auto"), (fp32, LoadOptions(), "auto")]
    check_text_memory(both, [*windows, *DIALOGUES], 1 << 40)

    def needed(models: list[tuple[Valley2, LoadOptions, str]]) -> str:
        with pytest.raises(
            BudgetError, match=r"more than the 1.0 MiB that this process may take; \d+MiB would do"
        ) as said:
            check_text_memory(models, windows, 1 << 20)
        return str(said.value)

    assert f"{int4.bundle.directory} and {fp32.bundle.directory} are open at the same time and need" in needed(both)
    assert f"{fp32.bundle.directory} needs" in needed(both[1:])


def test_the_memory_that_a_refusal_names_suffices(fp32: Valley2, int4: Valley2, windows: list[Window]) -> None:
    both = [(int4, LoadOptions(), "auto"), (fp32, LoadOptions(), "auto")]
    with pytest.raises(BudgetError) as said:
        check_text_memory(both, windows, 1 << 20)
    fitting = int(str(said.value).rpartition("; ")[2].partition("MiB")[0])
    check_text_memory(both, windows, fitting << 20)


@pytest.mark.slow
def test_a_decoder_of_onnx_graphs_is_measured_as_well(onnx_bundle: Path, int4: Valley2, windows: list[Window]) -> None:
    with Valley2.load(onnx_bundle, threads=1) as graphs:
        found = measure_text(graphs, windows[:2], int4)
        check_text_memory([(graphs, LoadOptions(), "auto"), (int4, LoadOptions(), "auto")], windows, 1 << 40)
    assert found.distance is not None
    # Both have the same integers; they differ by how each rounds its activations.
    assert 0 < found.distance.mean_kl.value < 0.05
