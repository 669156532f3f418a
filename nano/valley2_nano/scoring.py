"""Cyclic accuracy of a model in training, by the likeliest of the four letters where the answer begins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from valley2_edge.ecom.question import LETTERS, Question
from valley2_edge.runtime.images import load_picture
from valley2_edge.tokenizer import Tokenizer
from valley2_nano.model import Switches, Valley2Nano
from valley2_nano.packing import pack
from valley2_nano.samples import Sample, SampleMaker

QUESTIONS_AT_ONCE = 16

VIEWS: dict[str, tuple[Switches, bool]] = {
    "all": (Switches(), True),
    "no_tiles": (Switches(siglip=False), True),
    "no_eagle": (Switches(eagle=False), True),
    "blind": (Switches(siglip=False, eagle=False), True),
    "text_only": (Switches(), False),
}
"""What the model gets: which branches' tokens are not zero, and whether there are pictures in the prompt at all."""


@dataclass(frozen=True)
class TaskScore:
    """Of one task."""

    count: int
    cyclic: float
    """Share of questions answered right with the right option at A, B, C and D."""
    single: float
    """Share of right answers over all orders of the options."""


def score(
    model: Valley2Nano,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    view: str = "all",
    kind: torch.dtype = torch.bfloat16,
) -> dict[str, TaskScore]:
    """Asks every question in its four orders.

    Args:
        model: In any state of training.
        tokenizer: Its tokenizer.
        questions: With pictures or frames in memory or in files.
        view: One of `VIEWS`.
        kind: Type of the matrix products.

    Returns:
        A score for each task, in the order of the questions.
    """
    switches, pictures = VIEWS[view]
    maker = SampleMaker(tokenizer, model.config)
    letters = torch.tensor([tokenizer.encode_text(letter)[0] for letter in LETTERS])
    right: dict[str, list[list[bool]]] = defaultdict(list)
    for group in _groups(questions):
        samples = [_sample(maker, question, pictures) for question in group]
        for question, hits in zip(group, _ask(model, samples, letters, switches, kind), strict=True):
            right[question.task].append(hits)
    return {task: _summary(hits) for task, hits in right.items()}


def _ask(
    model: Valley2Nano, samples: Sequence[Sample], letters: torch.Tensor, switches: Switches, kind: torch.dtype
) -> list[list[bool]]:
    config, device = model.config, model.lm_head.weight.device
    batch = pack(samples, config.projector.tokens_per_side**2, config.siglip.patches_per_side**2).to(device)
    with torch.no_grad():
        logits = model(replace(batch, target_rows=batch.turn_ends), kind, switches)
    chosen = logits[:, letters.to(device)].argmax(-1).view(len(samples), len(LETTERS)).tolist()
    return [[choice == rotation for rotation, choice in enumerate(row)] for row in chosen]


def _sample(maker: SampleMaker, question: Question, pictures: bool) -> Sample:
    sources = question.images if question.video is None else question.video
    if isinstance(sources, (str, bytes)) or not isinstance(sources, Sequence):
        raise ValueError(f"Question {question.identifier} is about a video file; its frames are needed.")
    turns = [(question.prompt(rotation), None) for rotation in range(len(LETTERS))]
    pixels = [load_picture(source) for source in sources] if pictures else []
    return maker.sample(pixels, turns, video=question.video is not None)


def _groups(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    for first in range(0, len(questions), QUESTIONS_AT_ONCE):
        yield questions[first : first + QUESTIONS_AT_ONCE]


def _summary(hits: Sequence[Sequence[bool]]) -> TaskScore:
    count = len(hits)
    return TaskScore(count, sum(map(all, hits)) / count, sum(map(sum, hits)) / (count * len(LETTERS)))
