"""Cyclic scoring counts a question only when it is answered right in all four orders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from valley2_edge.ecom.benchmark import benchmark_questions
from valley2_edge.ecom.question import LETTERS, Question
from valley2_edge.tokenizer import Tokenizer
from valley2_nano.model import Switches, Valley2Nano
from valley2_nano.packing import PackedBatch
from valley2_nano.scoring import VIEWS, score

TASKS = ("ocr", "global_video_understanding")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return benchmark_questions(2, seed=1, tasks=TASKS)


def answering(model: Valley2Nano, tokenizer: Tokenizer, choose: Callable[[int, int], int]) -> Valley2Nano:
    """A model that answers question q in order r with the letter choose(q, r)."""
    letters = [tokenizer.encode_text(letter)[0] for letter in LETTERS]

    def run(batch: PackedBatch, kind: torch.dtype, switches: Switches) -> torch.Tensor:
        logits = torch.zeros(len(batch.target_rows), model.config.decoder.vocab_size)
        for row in range(len(logits)):
            logits[row, letters[choose(*divmod(row, len(LETTERS)))]] = 1.0
        return logits

    class Stand(SimpleNamespace):
        __call__ = staticmethod(run)

    return cast(Valley2Nano, Stand(config=model.config, lm_head=model.lm_head))


@pytest.mark.parametrize(
    ("choose", "cyclic", "single"),
    [
        (lambda question, order: order, 1.0, 1.0),
        (lambda question, order: 0, 0.0, 0.25),
        (lambda question, order: 0 if order == 3 else order, 0.0, 0.75),
        (lambda question, order: order if question % 2 else 1, 0.5, 0.625),
    ],
    ids=["right", "always A", "never D", "every other question"],
)
def test_scores(
    choose: Callable[[int, int], int],
    cyclic: float,
    single: float,
    model: Valley2Nano,
    tokenizer_directory: Path,
    questions: list[Question],
) -> None:
    tokenizer = Tokenizer(tokenizer_directory)
    scores = score(answering(model, tokenizer, choose), tokenizer, questions)
    assert tuple(scores) == TASKS
    assert {(one.count, one.cyclic, one.single) for one in scores.values()} == {(2, cyclic, single)}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_scored(
    view: str, model: Valley2Nano, tokenizer_directory: Path, questions: list[Question]
) -> None:
    scores = score(model, Tokenizer(tokenizer_directory), questions, view, torch.float32)
    assert all(0 <= one.cyclic <= one.single <= 1 for one in scores.values())
