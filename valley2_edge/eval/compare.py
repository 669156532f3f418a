"""Two bundles side by side: how often they agree, how far their distributions are apart, and how well each reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from valley2_edge.bundle import TOKENIZER_FILE, Bundle
from valley2_edge.errors import InputError
from valley2_edge.eval.distributions import kl_divergences, log_probabilities
from valley2_edge.eval.edit_distance import edit_distance
from valley2_edge.eval.intervals import Estimate, bootstrap_ratio
from valley2_edge.eval.questions.question import LETTERS, OpenQuestion, Question
from valley2_edge.eval.run import CHOICE_TOKENS, Progress, show_pictures
from valley2_edge.eval.scoring import ROTATIONS, Outcome, Score, chosen_letter, score
from valley2_edge.runtime.inquiry import Inquiry

OPEN_TOKENS = 64
"""Most tokens of a free-form answer."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Divergence:
    """How two models' next-token distributions differ over the tokens of one or several answers."""

    positions: int = 0
    kl: float = 0.0
    """Sum of KL(A || B) over the positions, in nats."""
    same_top: int = 0
    """Positions at which both find the same token the likeliest."""

    def __add__(self, other: Divergence) -> Divergence:
        return Divergence(self.positions + other.positions, self.kl + other.kl, self.same_top + other.same_top)


@dataclass(frozen=True)
class Reading:
    """How two models read one text, in characters to be changed and of the truth."""

    errors_a: int
    errors_b: int
    characters: int


@dataclass(frozen=True)
class Comparison:
    """Bundle B measured against bundle A; every interval is a bootstrap over questions."""

    score_a: Score | None
    """Cyclic accuracy of A; None without questions with options."""
    score_b: Score | None
    agreement: Estimate | None
    """Share of the answers, four a question, in which both choose the same option."""
    mean_kl: Estimate
    """Mean KL(A || B) over all positions of A's answers, in nats."""
    same_top: Estimate
    """Share of these positions at which both find the same token the likeliest."""
    positions: int
    error_rate_a: Estimate | None
    """Characters that A reads wrong for each character of the truth; None without free-form questions."""
    error_rate_b: Estimate | None
    error_rate_change: Estimate | None
    """B's rate less A's, over the same questions."""
    questions: int
    """Number of questions with options."""
    open_questions: int


def check_comparable(first: Bundle, second: Bundle) -> None:
    """Refuses bundles whose tokens do not mean the same; only their manifests are looked at.

    Raises:
        InputError: The tokenizers or the sizes of the vocabularies differ.
    """
    names = f"{first.directory} and {second.directory}"
    one, other = (bundle.manifest.files[TOKENIZER_FILE].sha256 for bundle in (first, second))
    if one != other:
        raise InputError(f"{names} have different tokenizers, so their tokens cannot be compared.")
    sizes = [bundle.manifest.architecture.decoder.vocab_size for bundle in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{names} have vocabularies of {sizes[0]} and {sizes[1]} tokens, so their distributions cannot be compared."
        )


def compare(
    first: Inquiry,
    second: Inquiry,
    questions: Sequence[Question],
    open_questions: Sequence[OpenQuestion],
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Comparison:
    """Asks two models the same questions.

    Both answer greedily. The distributions are compared over the tokens of A's answers, its stop token included: each
    model is given the question and A's tokens so far.

    Args:
        first: The model A, the reference.
        second: The model B.
        questions: Questions with options; each is asked in its four orders.
        open_questions: Questions that are answered in words.
        seed: Random seed of the bootstrap.
        on_progress: Told how many questions are done.

    Raises:
        InputError: There is no question, or the pictures of one are unusable.
    """
    total = len(questions) + len(open_questions)
    if total == 0:
        raise InputError("There is no question to compare the bundles with.")
    divergences: list[Divergence] = []
    outcomes: list[tuple[Outcome, Outcome]] = []
    readings: list[Reading] = []
    everything: list[Question | OpenQuestion] = [*questions, *open_questions]
    for done, question in enumerate(everything):
        if on_progress is not None:
            on_progress(done, total)
        for inquiry in (first, second):
            show_pictures(inquiry, question)
        if isinstance(question, Question):
            pair, divergence = _ask_both(first, second, question)
            outcomes.append(pair)
        else:
            reading, divergence = _read_both(first, second, question)
            readings.append(reading)
        divergences.append(divergence)
    if on_progress is not None:
        on_progress(total, total)
    return _summarise(outcomes, readings, divergences, seed)


def diverge(a: Logits, b: Logits) -> Divergence:
    """Compares two models' logits at the same positions.

    Args:
        a: (n, vocabulary).
        b: (n, vocabulary).
    """
    kl = float(kl_divergences(log_probabilities(a), log_probabilities(b)).sum())
    same = int(np.count_nonzero(a.argmax(axis=1) == b.argmax(axis=1)))
    return Divergence(len(a), kl, same)


def _ask_both(first: Inquiry, second: Inquiry, question: Question) -> tuple[tuple[Outcome, Outcome], Divergence]:
    letters: tuple[list[str | None], list[str | None]] = ([], [])
    divergence = Divergence()
    for rotation in range(ROTATIONS):
        text, options = question.prompt(rotation), question.shown(rotation)
        answer = first.ask(text, max_new_tokens=CHOICE_TOKENS)
        divergence += diverge(first.logits(text, answer.tokens), second.logits(text, answer.tokens))
        letters[0].append(chosen_letter(answer.text, options))
        letters[1].append(chosen_letter(second.ask(text, max_new_tokens=CHOICE_TOKENS).text, options))
    one, other = (Outcome(question.identifier, question.task, tuple(chosen)) for chosen in letters)
    return (one, other), divergence


def _read_both(first: Inquiry, second: Inquiry, question: OpenQuestion) -> tuple[Reading, Divergence]:
    text, both = question.question, (first, second)
    answers = [inquiry.ask(text, max_new_tokens=OPEN_TOKENS, think=question.think) for inquiry in both]
    logits = [inquiry.logits(text, answers[0].tokens, think=question.think) for inquiry in both]
    errors = [edit_distance(answer.text.strip(), question.answer) for answer in answers]
    return Reading(errors[0], errors[1], len(question.answer)), diverge(logits[0], logits[1])


def _summarise(
    outcomes: list[tuple[Outcome, Outcome]], readings: list[Reading], divergences: list[Divergence], seed: int
) -> Comparison:
    positions = [divergence.positions for divergence in divergences]
    rates = list(_error_rates(readings, seed)) if readings else [None, None, None]
    agreed = [_agreements(one, other) for one, other in outcomes]
    return Comparison(
        score_a=score(one for one, _ in outcomes) if outcomes else None,
        score_b=score(other for _, other in outcomes) if outcomes else None,
        agreement=bootstrap_ratio(agreed, [len(LETTERS)] * len(agreed), seed) if outcomes else None,
        mean_kl=bootstrap_ratio([divergence.kl for divergence in divergences], positions, seed),
        same_top=bootstrap_ratio([divergence.same_top for divergence in divergences], positions, seed),
        positions=sum(positions),
        error_rate_a=rates[0],
        error_rate_b=rates[1],
        error_rate_change=rates[2],
        questions=len(outcomes),
        open_questions=len(readings),
    )


def _error_rates(readings: list[Reading], seed: int) -> Iterator[Estimate]:
    characters = [reading.characters for reading in readings]
    for errors in (
        [reading.errors_a for reading in readings],
        [reading.errors_b for reading in readings],
        [reading.errors_b - reading.errors_a for reading in readings],
    ):
        yield bootstrap_ratio(errors, characters, seed)


def _agreements(one: Outcome, other: Outcome) -> int:
    # Two answers that name no option do not agree on one.
    return sum(a == b and a is not None for a, b in zip(one.letters, other.letters, strict=True))
