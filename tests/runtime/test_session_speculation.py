"""Conversations with drafts: the same answers, and statistics that say what the drafts were worth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valley2_edge import InputError, Valley2

PICTURE = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(fp32_bundle: Path) -> Iterator[Valley2]:
    with Valley2.load(fp32_bundle, threads=2, keep_vision=True) as loaded:
        yield loaded


@pytest.mark.parametrize("options", [{"repetition_penalty": 0.4}, {"temperature": 0.7, "seed": 3}])
def test_speculation_changes_no_answer_and_is_counted(model: Valley2, options: dict[str, Any]) -> None:
    pieces, counts = {}, {}
    for speculation in ("off", "auto", "always"):
        session = model.session()
        answers = [
            list(session.ask(text, images=images, max_new_tokens=60, speculation=speculation, **options))
            for text, images in (("One?", [PICTURE]), ("One? One? One?", []))
        ]
        pieces[speculation], counts[speculation] = answers, session.statistics
        numbers = session.statistics
        assert numbers.decode_steps + numbers.accepted_tokens == numbers.new_tokens
        assert numbers.accepted_tokens <= numbers.drafted_tokens
        assert session.context_used == numbers.context_used
    assert pieces["off"] == pieces["auto"] == pieces["always"]
    assert counts["off"].drafted_tokens == 0
    assert counts["off"].tokens_per_step == 1
    if "repetition_penalty" in options:  # which, below 1, makes the answer repeat itself
        assert counts["always"].accepted_tokens > 0
        assert counts["always"].tokens_per_step > 1


def test_leaving_the_iterator_inside_a_draft_keeps_exactly_what_was_seen(model: Valley2) -> None:
    answers = []
    for speculation in ("off", "always"):
        session = model.session()
        first = session.ask("One?", max_new_tokens=60, speculation=speculation, repetition_penalty=0.4)
        seen = [next(first) for _ in range(15)]
        answers.append((seen, list(session.ask("Again", max_new_tokens=20, speculation=speculation))))
        assert first.statistics.stop == "stopped"
    assert answers[0] == answers[1]


def test_unknown_speculation_is_refused(model: Valley2) -> None:
    with pytest.raises(InputError, match="speculation"):
        model.session().ask("What?", speculation="sometimes")
