"""Two bundles side by side."""

from __future__ import annotations

import numpy as np
import pytest

from valley2_edge import InputError, Valley2
from valley2_edge.eval.ablation import inquiry_of
from valley2_edge.eval.compare import Divergence, check_comparable, compare, diverge
from valley2_edge.eval.edit_distance import edit_distance
from valley2_edge.eval.questions.question import OpenQuestion, Question

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
CHOICES = [Question(f"q{n}", "ocr", f"Which of the {n}?", ("a", "b", "c", "d"), n, (PIXELS,)) for n in range(2)]
OPEN = [OpenQuestion(f"o{n}", "read_price", f"What is price {n}?", "$12.99", (PIXELS,)) for n in range(2)]


def test_divergence_equals_its_definition() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, 7)).astype(np.float32) * 3
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a.astype(float), b.astype(float)))
    found = diverge(a, b)
    assert found.positions == 5
    assert found.kl == pytest.approx((p * np.log(p / q)).sum())
    assert found.same_top == (p.argmax(axis=1) == q.argmax(axis=1)).sum()


def test_divergence_stands_large_logits_and_a_common_shift() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0]], np.float32)
    assert diverge(logits, logits + 5) == Divergence(1, 0.0, 1)


def test_bundle_agrees_with_itself(fp32: Valley2) -> None:
    with inquiry_of(fp32) as first, inquiry_of(fp32) as second:
        found = compare(first, second, CHOICES, OPEN)
    assert found.mean_kl.value == pytest.approx(0, abs=1e-12)
    assert found.same_top.value == 1
    assert (found.questions, found.open_questions) == (2, 2)
    assert found.error_rate_change is not None and found.error_rate_change.value == 0
    assert found.score_a == found.score_b
    # With random weights no answer names a letter, and such answers do not agree.
    assert found.score_a is not None and found.agreement is not None
    assert found.agreement.value == 1 - found.score_a.unparsed / 8


def test_rounding_shows(fp32: Valley2, int4: Valley2) -> None:
    with inquiry_of(fp32) as first, inquiry_of(int4) as second:
        found = compare(first, second, CHOICES[:1], OPEN[:1])
        answers = [inquiry.ask(OPEN[0].question, max_new_tokens=64) for inquiry in (first, second)]
    assert found.mean_kl.value > 1e-4
    assert found.mean_kl.low <= found.mean_kl.value <= found.mean_kl.high
    rates = [edit_distance(answer.text.strip(), "$12.99") / 6 for answer in answers]
    assert found.error_rate_a is not None and found.error_rate_b is not None
    assert [found.error_rate_a.value, found.error_rate_b.value] == pytest.approx(rates)
    assert found.positions > len(answers[0].tokens)


def test_one_kind_of_questions_is_enough(fp32: Valley2) -> None:
    with inquiry_of(fp32) as first, inquiry_of(fp32) as second:
        assert compare(first, second, [], OPEN[:1]).agreement is None
        assert compare(first, second, CHOICES[:1], []).error_rate_a is None
        with pytest.raises(InputError, match="no question"):
            compare(first, second, [], [])


def test_same_tokenizer_is_comparable(fp32: Valley2, int4: Valley2) -> None:
    check_comparable(fp32.bundle, int4.bundle)


def test_other_tokenizer_is_refused(fp32: Valley2, int4: Valley2, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = int4.bundle.manifest.files["tokenizer/tokenizer.json"]
    other = entry.model_copy(update={"sha256": "0" * 64})
    monkeypatch.setitem(int4.bundle.manifest.files, "tokenizer/tokenizer.json", other)
    with pytest.raises(InputError, match="different tokenizers"):
        check_comparable(fp32.bundle, int4.bundle)
