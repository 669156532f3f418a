"""How much a bundle lost: measured against the unrounded model on held-out pictures and questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from valley2_edge.bundle import Bundle
from valley2_edge.calibration.encode import Branch, EncodedSample
from valley2_edge.calibration.held_out import HeldOutSet, held_out_set
from valley2_edge.evaluation.edit_distance import edit_distance
from valley2_edge.evaluation.intervals import Estimate, bootstrap_ratio
from valley2_edge.evaluation.scoring import ROTATIONS, Outcome, chosen_letter
from valley2_edge.export.answer_statistics import KEPT_LOGITS, Difference, TopLogits, compare_logits
from valley2_edge.export.calibration_inputs import EmbeddingTable, encode_all, sample_encoder
from valley2_edge.export.checkpoint import Checkpoint
from valley2_edge.export.greedy_reference import GreedyAnswers, Tokens, greedy_answers
from valley2_edge.export.rounded_model import RoundedModel
from valley2_edge.export.unrounded_model import UnroundedModel
from valley2_edge.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]

STAGE = "quality"
CHOICE_TOKENS = 24
READING_TOKENS = 24
MOST_RUNS = 6
"""Of the unrounded model over its questions."""


@dataclass(frozen=True)
class SampleQuality:
    """What was found on one held-out sample."""

    positions: int
    kl: float
    """Sums over the positions."""
    same_top: int
    surprise: float
    tail: float
    characters: int
    """Of the texts that were to be read."""
    errors: int
    reference_errors: int
    questions: int
    """With options."""
    right: int
    """In all four orders."""
    reference_right: int


@dataclass(frozen=True)
class Quality:
    """A bundle against its checkpoint."""

    samples: tuple[SampleQuality, ...]
    sha256: str
    """Of the held-out set."""
    reference_runs: int
    inexact_answers: int

    def figures(self) -> dict[str, Any]:
        """The manifest's `quality`: intervals of 95 % are a bootstrap over samples."""
        positions = [sample.positions for sample in self.samples]
        surprise = self._ratio([sample.surprise for sample in self.samples], positions)
        limits = (surprise.value, surprise.low, surprise.high)
        return {
            "mean_kl": _facts(self._ratio([sample.kl for sample in self.samples], positions)),
            "same_top": _facts(self._ratio([sample.same_top for sample in self.samples], positions)),
            "perplexity_ratio": _facts(Estimate(*(math.exp(limit) for limit in limits))),
            "character_error_rate": self._against_reference("errors", "reference_errors", "characters"),
            "ecom_vqa": self._against_reference("right", "reference_right", "questions"),
            "held_out": {
                "sha256": self.sha256,
                "samples": len(self.samples),
                "positions": sum(positions),
                "activations": RoundedModel.activations,
                "kept_logits": KEPT_LOGITS,
                "mean_tail": _number(sum(sample.tail for sample in self.samples) / sum(positions)),
                "reference_runs": self.reference_runs,
                "inexact_answers": self.inexact_answers,
            },
        }

    def mean_kl(self) -> float:
        """Nats a position."""
        return sum(sample.kl for sample in self.samples) / sum(sample.positions for sample in self.samples)

    def _against_reference(self, found: str, reference: str, size: str) -> dict[str, float] | None:
        sizes = [getattr(sample, size) for sample in self.samples]
        if not sum(sizes):
            return None
        ours = [getattr(sample, found) for sample in self.samples]
        theirs = [getattr(sample, reference) for sample in self.samples]
        change = self._ratio([a - b for a, b in zip(ours, theirs, strict=True)], sizes)
        return {
            **_facts(self._ratio(ours, sizes)),
            "reference": _number(sum(theirs) / sum(sizes)),
            "change": _number(change.value),
            "change_low": _number(change.low),
            "change_high": _number(change.high),
        }

    @staticmethod
    def _ratio(amounts: Sequence[float], sizes: Sequence[float]) -> Estimate:
        return bootstrap_ratio(amounts, sizes)


def measure_quality(
    checkpoint: Checkpoint,
    bundle: Bundle,
    count: int,
    scratch: Path,
    in_memory_bytes: int,
    progress: Progress,
    seed: int = 0,
) -> Quality:
    """Measures a bundle.

    The unrounded model runs in float32, layer by layer, with the bundle's own vision graphs: what is measured is the
    decoder. The bundle runs as it will: native, with its default activations.

    Args:
        checkpoint: The unrounded model.
        bundle: All of it, finished or being made.
        count: Held-out samples.
        scratch: A file for activations; made and removed.
        in_memory_bytes: Activations of the unrounded model up to this size stay in memory.
        progress: Called while it runs.
        seed: Of the held-out samples.

    Raises:
        NumericError: A stage computed a NaN or an infinity.
    """
    held = held_out_set(count, seed)
    encoder = sample_encoder(checkpoint, bundle)
    samples = [one.sample for one in held.samples]
    encoded = list(encode_all(encoder, samples, progress, f"{STAGE}: pictures"))
    unrounded = UnroundedModel(
        checkpoint, scratch, in_memory_bytes, lambda done, total: progress(f"{STAGE}: unrounded model", done, total)
    )
    embed = EmbeddingTable(checkpoint)
    stops = checkpoint.config.stop_tokens
    with RoundedModel(bundle.directory, embed, stops) as rounded:
        survey = _Survey(held, encoded, unrounded, rounded, embed, stops, progress)
        return survey.run(Tokenizer(checkpoint.path))


class _Survey:
    """The questions of all samples, asked to both models."""

    def __init__(
        self,
        held: HeldOutSet,
        encoded: list[EncodedSample],
        unrounded: UnroundedModel,
        rounded: RoundedModel,
        embed: EmbeddingTable,
        stops: Tokens,
        progress: Progress,
    ) -> None:
        self._held = held
        self._encoded = encoded
        self._unrounded = unrounded
        self._rounded = rounded
        self._embed = embed
        self._stops = stops
        self._progress = progress
        self._places = [
            (sample, turn)
            for sample, one in enumerate(held.samples)
            for turn, kind in enumerate(one.kinds)
            if kind != "open"
        ]
        """Of the questions that are answered: those with options, and those that are read."""
        self._limits = [
            CHOICE_TOKENS if held.samples[sample].kinds[turn] == "choice" else READING_TOKENS
            for sample, turn in self._places
        ]
        self._kept: list[TopLogits] = []
        """The unrounded model's distributions over the true answers, by sample."""

    def run(self, tokenizer: Tokenizer) -> Quality:
        drafts = [self._draft(index, ()) for index in range(len(self._places))]
        greedy = greedy_answers(drafts, self._choose, self._draft, self._stops, self._limits, MOST_RUNS)
        if not self._kept:
            self._kept = self._unrounded.run(self._encoded)
        found = []
        for index, sample in enumerate(self._encoded):
            difference = self._compare(sample, self._kept[index])
            found.append(self._summarise(index, difference, drafts, greedy, tokenizer))
            self._progress(f"{STAGE}: comparison", index + 1, len(self._encoded))
        return Quality(tuple(found), self._held.sha256, max(1, greedy.runs), greedy.inexact)

    def _draft(self, index: int, begin: Tokens) -> Tokens:
        sample, turn = self._places[index]
        encoded = self._encoded[sample]
        return self._rounded.answer(encoded, encoded.branches[turn], begin, self._limits[index])

    def _choose(self, asked: Sequence[tuple[int, Tokens]]) -> list[Tokens]:
        """The unrounded model's choices; its first run looks at the true answers, too."""
        with_truth = not self._kept
        by_sample: dict[int, list[tuple[int, Tokens]]] = {}
        if with_truth:
            by_sample = {sample: [] for sample in range(len(self._encoded))}
        for index, answer in asked:
            by_sample.setdefault(self._places[index][0], []).append((index, answer))
        samples = [self._extended(sample, questions, with_truth) for sample, questions in by_sample.items()]
        chosen: dict[int, Tokens] = {}
        for (sample, questions), kept in zip(by_sample.items(), self._unrounded.run(samples), strict=True):
            start = 0
            if with_truth:
                start = sum(len(branch.answer) for branch in self._encoded[sample].branches)
                self._kept.append(
                    TopLogits(
                        kept.tokens[:start], kept.log_probabilities[:start], kept.target_log_probabilities[:start]
                    )
                )
            for index, answer in questions:
                stop = start + self._rows_of(answer)
                chosen[index] = tuple(kept.tokens[start:stop, 0].tolist())
                start = stop
        return [chosen[index] for index, _ in asked]

    def _rows_of(self, answer: Tokens) -> int:
        """Places at which a choice is wanted: one behind the answer, too, unless it ends."""
        return len(answer) if answer and answer[-1] in self._stops else len(answer) + 1

    def _extended(self, sample: int, questions: Sequence[tuple[int, Tokens]], with_truth: bool) -> EncodedSample:
        """A sample with a branch for each draft, behind the true ones or in their place."""
        encoded = self._encoded[sample]
        branches = list(encoded.branches) if with_truth else []
        rows = [encoded.embeddings if with_truth else encoded.embeddings[: encoded.prefix_rows]]
        for index, answer in questions:
            asked = encoded.branches[self._places[index][1]]
            count = self._rows_of(answer)
            tokens = (*asked.tokens[: asked.prompt_rows], *answer[: count - 1])
            branches.append(Branch(tokens, (*answer, 0)[:count]))
            rows.append(self._embed(tokens))
        embeddings = np.concatenate(rows)
        mask = np.zeros(len(embeddings), np.bool_)
        mask[: encoded.prefix_rows] = encoded.is_picture[: encoded.prefix_rows]
        return replace(encoded, embeddings=embeddings, is_picture=mask, branches=tuple(branches))

    def _compare(self, sample: EncodedSample, kept: TopLogits) -> list[Difference]:
        differences = []
        start = 0
        for branch in sample.branches:
            part = slice(start, start + len(branch.answer))
            start += len(branch.answer)
            reference = TopLogits(kept.tokens[part], kept.log_probabilities[part], kept.target_log_probabilities[part])
            logits = self._rounded.logits(sample, branch)
            differences.append(compare_logits(reference, logits, torch.tensor(branch.answer)))
        return differences

    def _summarise(
        self,
        sample: int,
        differences: Sequence[Difference],
        drafts: Sequence[Tokens],
        greedy: GreedyAnswers,
        tokenizer: Tokenizer,
    ) -> SampleQuality:
        one = self._held.samples[sample]
        letters: tuple[list[str | None], list[str | None]] = ([], [])
        errors = [0, 0]
        characters = 0
        for index, (place, turn) in enumerate(self._places):
            if place != sample:
                continue
            texts = [self._text(answers[index], tokenizer) for answers in (drafts, greedy.answers)]
            truth = one.sample.turns[turn].answer
            if one.kinds[turn] == "choice":
                options = one.question.shown(len(letters[0]) % ROTATIONS)
                for chosen, text in zip(letters, texts, strict=True):
                    chosen.append(chosen_letter(text, options))
            else:
                characters += len(truth)
                for which, text in enumerate(texts):
                    errors[which] += edit_distance(text.strip(), truth)
        right = [
            sum(
                Outcome("", "", tuple(chosen[first : first + ROTATIONS])).right
                for first in range(0, len(chosen), ROTATIONS)
            )
            for chosen in letters
        ]
        return SampleQuality(
            positions=sum(len(difference.kl) for difference in differences),
            kl=sum(float(difference.kl.sum()) for difference in differences),
            same_top=sum(int(difference.same_top.sum()) for difference in differences),
            surprise=sum(float(difference.surprise.sum()) for difference in differences),
            tail=sum(float(difference.tail.sum()) for difference in differences),
            characters=characters,
            errors=errors[0],
            reference_errors=errors[1],
            questions=len(letters[0]) // ROTATIONS,
            right=right[0],
            reference_right=right[1],
        )

    def _text(self, answer: Tokens, tokenizer: Tokenizer) -> str:
        return tokenizer.decode([token for token in answer if token not in self._stops])


def _facts(estimate: Estimate) -> dict[str, float]:
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}


def _number(value: float) -> float:
    return float(f"{value:.6g}")
