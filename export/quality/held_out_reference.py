"""Runs the unrounded model on the held-out set: its distributions over the true answers, and its own answers.

It does not depend on how a bundle is rounded: one reference serves any number of bundles with the same vision graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from valley2_edge.calibration.encode import Branch, EncodedSample
from valley2_edge.calibration.held_out import HeldOutSet
from valley2_edge.export.checkpoint.embedding_table import EmbeddingTable
from valley2_edge.export.quality.answer_statistics import TopLogits
from valley2_edge.export.quality.greedy_reference import GreedyAnswers, Tokens, greedy_answers
from valley2_edge.export.quality.rounded_model import RoundedModel
from valley2_edge.export.quality.unrounded_model import UnroundedModel

CHOICE_TOKENS = 24
"""Largest number of tokens of an answer to a question with options."""
READING_TOKENS = 24
"""Largest number of tokens of an answer that is read off a picture."""
MOST_RUNS = 6
"""Largest number of runs of the unrounded model over the questions."""


@dataclass(frozen=True)
class AskedQuestion:
    """A question of the held-out set that the models answer: one with options, or one that is read off a picture."""

    sample: int
    """Number of the sample in the set."""
    turn: int
    """Number of the turn in the sample."""
    limit: int
    """Largest number of tokens of the answer."""


def asked_questions(held: HeldOutSet) -> list[AskedQuestion]:
    """The questions that the models answer, in the order of samples and turns.

    Args:
        held: The held-out set.
    """
    return [
        AskedQuestion(sample, turn, CHOICE_TOKENS if kind == "choice" else READING_TOKENS)
        for sample, one in enumerate(held.samples)
        for turn, kind in enumerate(one.kinds)
        if kind != "open"
    ]


@dataclass(frozen=True)
class Reference:
    """What the unrounded model says about the held-out set."""

    held: HeldOutSet
    encoded: list[EncodedSample]
    """The samples as rows of embeddings, which both models are given."""
    kept: list[TopLogits]
    """The model's distributions over the true answers, for each sample."""
    greedy: GreedyAnswers
    """The model's own answers to `asked_questions`."""


def draft_answers(rounded: RoundedModel, held: HeldOutSet, encoded: Sequence[EncodedSample]) -> list[Tokens]:
    """The greedy answers of a bundle to `asked_questions`.

    Args:
        rounded: The bundle.
        held: The held-out set.
        encoded: The samples of the set.
    """
    return [
        rounded.answer(encoded[asked.sample], encoded[asked.sample].branches[asked.turn], (), asked.limit)
        for asked in asked_questions(held)
    ]


def make_reference(
    held: HeldOutSet,
    encoded: list[EncodedSample],
    unrounded: UnroundedModel,
    rounded: RoundedModel,
    drafts: list[Tokens],
    embed: EmbeddingTable,
    stops: Tokens,
) -> Reference:
    """Runs the unrounded model over a held-out set.

    Args:
        held: The held-out set.
        encoded: The samples of the set.
        unrounded: The unrounded model.
        rounded: A bundle of the same model, whose answers serve as drafts.
        drafts: The answers that `draft_answers` returned.
        embed: The embedding table.
        stops: Tokens that end an answer.

    Raises:
        NumericError: A layer computed a NaN or an infinity.
    """
    questions = _ReferenceQuestions(asked_questions(held), encoded, unrounded, embed, stops)

    def extend(index: int, begin: Tokens) -> Tokens:
        asked = questions.asked[index]
        sample = encoded[asked.sample]
        return rounded.answer(sample, sample.branches[asked.turn], begin, asked.limit)

    limits = [asked.limit for asked in questions.asked]
    greedy = greedy_answers(drafts, questions.choose, extend, stops, limits, MOST_RUNS)
    return Reference(held, encoded, questions.kept or unrounded.run(encoded), greedy)


class _ReferenceQuestions:
    """Asks the unrounded model; its first run looks at the true answers, too."""

    def __init__(
        self,
        asked: list[AskedQuestion],
        encoded: list[EncodedSample],
        unrounded: UnroundedModel,
        embed: EmbeddingTable,
        stops: Tokens,
    ) -> None:
        self.asked = asked
        self.kept: list[TopLogits] = []
        self._encoded = encoded
        self._unrounded = unrounded
        self._embed = embed
        self._stops = stops

    def choose(self, questions: Sequence[tuple[int, Tokens]]) -> list[Tokens]:
        """The token that the model chooses at each place of each draft and behind it."""
        with_truth = not self.kept
        by_sample: dict[int, list[tuple[int, Tokens]]] = {}
        if with_truth:
            by_sample = {sample: [] for sample in range(len(self._encoded))}
        for index, answer in questions:
            by_sample.setdefault(self.asked[index].sample, []).append((index, answer))
        samples = [self._extended(sample, drafts, with_truth) for sample, drafts in by_sample.items()]
        chosen: dict[int, Tokens] = {}
        for (sample, drafts), kept in zip(by_sample.items(), self._unrounded.run(samples), strict=True):
            start = 0
            if with_truth:
                start = sum(len(branch.answer) for branch in self._encoded[sample].branches)
                self.kept.append(kept.part(0, start))
            for index, answer in drafts:
                stop = start + self._rows_of(answer)
                chosen[index] = tuple(kept.tokens[start:stop, 0].tolist())
                start = stop
        return [chosen[index] for index, _ in questions]

    def _rows_of(self, answer: Tokens) -> int:
        """Number of places at which a choice is wanted: also the one behind the answer, unless the answer ends."""
        return len(answer) if answer and answer[-1] in self._stops else len(answer) + 1

    def _extended(self, sample: int, drafts: Sequence[tuple[int, Tokens]], with_truth: bool) -> EncodedSample:
        """A sample with a branch for each draft, behind the branches of the true answers or instead of them."""
        encoded = self._encoded[sample]
        branches = list(encoded.branches) if with_truth else []
        rows = [encoded.embeddings if with_truth else encoded.embeddings[: encoded.prefix_rows]]
        for index, answer in drafts:
            asked = encoded.branches[self.asked[index].turn]
            count = self._rows_of(answer)
            tokens = (*asked.tokens[: asked.prompt_rows], *answer[: count - 1])
            branches.append(Branch(tokens, (*answer, 0)[:count]))
            rows.append(self._embed(tokens))
        embeddings = np.concatenate(rows)
        mask = np.zeros(len(embeddings), np.bool_)
        mask[: encoded.prefix_rows] = encoded.is_picture[: encoded.prefix_rows]
        return replace(encoded, embeddings=embeddings, is_picture=mask, branches=tuple(branches))
