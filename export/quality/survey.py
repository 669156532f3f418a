"""Measures how much a bundle lost against the unrounded model, on held-out pictures and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from valley2_edge.bundle import Bundle
from valley2_edge.calibration.encode import EncodedSample
from valley2_edge.calibration.held_out import held_out_set
from valley2_edge.calibration.samples import CalibrationSet
from valley2_edge.errors import ExportError
from valley2_edge.eval.edit_distance import edit_distance
from valley2_edge.eval.scoring import ROTATIONS, Outcome, chosen_letter
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.embedding_table import EmbeddingTable
from valley2_edge.export.control import Progress
from valley2_edge.export.decoder.layers import split_parts
from valley2_edge.export.quality.answer_statistics import Difference, TopLogits, compare_logits
from valley2_edge.export.quality.figures import Quality, SampleQuality
from valley2_edge.export.quality.greedy_reference import Tokens
from valley2_edge.export.quality.held_out_reference import Reference, asked_questions, draft_answers, make_reference
from valley2_edge.export.quality.rounded_model import Activations, RoundedModel
from valley2_edge.export.quality.unrounded_model import UnroundedModel
from valley2_edge.export.vision.sample_encoder import encode_all, sample_encoder
from valley2_edge.runtime.core.process_memory import resident_bytes
from valley2_edge.runtime.core.tokenizer import Tokenizer

STAGE = "quality"
_ACTIVATIONS_FILE = "quality-activations.bin"


def measure_quality(
    checkpoint: Checkpoint,
    bundle: Bundle,
    count: int,
    scratch: Path,
    in_memory_bytes: int,
    progress: Progress,
    seed: int = 0,
    own_text: CalibrationSet | None = None,
) -> Quality:
    """Measures a bundle.

    The unrounded model runs in float32, layer by layer, with the bundle's own vision components: only the decoder is
    measured. The bundle runs as it does in use: native, with its default activations.

    Args:
        checkpoint: The unrounded model.
        bundle: The bundle with all its components, finished or being made.
        count: Number of held-out samples.
        scratch: A file for activations, which is made and removed.
        in_memory_bytes: Memory for activations of the unrounded model and a copy; they lie on disk where it is less.
        progress: Called while it runs.
        seed: Seed of the held-out samples.
        own_text: Lines of the user's own that are measured as well.

    Raises:
        NumericError: A stage computed a NaN or an infinity.
    """
    survey = QualitySurvey(checkpoint, count, scratch, in_memory_bytes, progress, seed, own_text)
    return survey.measure(bundle)


def measure_before_publishing(
    checkpoint: Checkpoint,
    bundle: Bundle,
    count: int,
    own_text: CalibrationSet | None,
    workspace: Path,
    budget_bytes: int,
    progress: Progress,
) -> Quality | None:
    """Measures a bundle that is about to be published.

    Args:
        checkpoint: The unrounded model.
        bundle: The bundle that is being made, with all its components.
        count: Number of held-out samples of the generator; with 0 nothing is measured.
        own_text: Lines of the user's own calibration file that were held out; they are measured as well.
        workspace: A directory for activations that do not fit in memory; made where it does not exist.
        budget_bytes: Memory that the process may take.
        progress: Called while it runs.

    Returns:
        What was measured, or None where `count` is 0.

    Raises:
        NumericError: A stage computed a NaN or an infinity.
    """
    if count == 0:
        return None
    workspace.mkdir(parents=True, exist_ok=True)
    weights = 4 * sum(matrix.rows * matrix.columns for matrix in split_parts(checkpoint.config.decoder)[0][0].matrices)
    free = budget_bytes - resident_bytes() - weights
    scratch = workspace / _ACTIVATIONS_FILE
    return measure_quality(checkpoint, bundle, count, scratch, max(0, free), progress, own_text=own_text)


def check_max_kl(figures: Mapping[str, Any], max_kl: float | None) -> None:
    """Refuses a bundle that lost more than the user allows, on the user's own text where there is some.

    Args:
        figures: The measured quality, as the manifest's `quality` has it.
        max_kl: Largest mean KL divergence that is allowed, in nats a position; None allows any.

    Raises:
        ExportError: The mean KL is above the limit.
    """
    if max_kl is None:
        return
    own = figures.get("own_text")
    where = "" if own is None else f" on the held-out lines of {own['name']}"
    found = (figures if own is None else own)["mean_kl"]["value"]
    if found > max_kl:
        raise ExportError(
            f"the mean KL of the bundle{where} is {found:.4g}, more than --max-kl {max_kl:g}: nothing was published"
        )


class QualitySurvey:
    """Measures bundles of one checkpoint; the unrounded model runs only for the first of them.

    Args:
        checkpoint: The unrounded model.
        count: Number of held-out samples.
        scratch: A file for activations, which is made and removed.
        in_memory_bytes: Memory for activations of the unrounded model and a copy; they lie on disk where it is less.
        progress: Called while it runs.
        seed: Seed of the held-out samples.
        own_text: Lines of the user's own that are measured as well.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        count: int,
        scratch: Path,
        in_memory_bytes: int,
        progress: Progress,
        seed: int = 0,
        own_text: CalibrationSet | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._held = held_out_set(count, seed, own_text)
        self._unrounded = UnroundedModel(
            checkpoint, scratch, in_memory_bytes, lambda done, total: progress(f"{STAGE}: unrounded model", done, total)
        )
        self._embed = EmbeddingTable(checkpoint)
        self._stops = checkpoint.config.stop_tokens
        self._progress = progress
        self._reference: Reference | None = None

    def measure(self, bundle: Bundle, *, activations: Activations = "int8") -> Quality:
        """Measures a bundle.

        Args:
            bundle: The first bundle's vision components encode the pictures for both models. Later bundles are given
                the same rows, so they must have the same vision components.
            activations: What the bundle's activations are rounded to while it runs.

        Raises:
            NumericError: A stage computed a NaN or an infinity.
        """
        if self._reference is None:
            samples = [one.sample for one in self._held.samples]
            encoder = sample_encoder(self._checkpoint, bundle)
            shown = list(encode_all(encoder, samples, self._progress, f"{STAGE}: pictures"))
        else:
            shown = self._reference.encoded
        with RoundedModel(bundle.directory, self._embed, self._stops, activations) as rounded:
            drafts = draft_answers(rounded, self._held, shown)
            if self._reference is None:
                self._reference = make_reference(
                    self._held, shown, self._unrounded, rounded, drafts, self._embed, self._stops
                )
            found = self._compare_all(rounded, shown, drafts, self._reference)
        greedy, own = self._reference.greedy, self._held.own_text
        drawn = len(found) - (0 if own is None else len(own.samples))
        return Quality(
            found[:drawn],
            self._held.sha256,
            max(1, greedy.runs),
            greedy.inexact,
            activations,
            own_samples=found[drawn:],
            own_name="" if own is None else own.name,
            own_sha256="" if own is None else own.sha256,
        )

    def _compare_all(
        self,
        rounded: RoundedModel,
        shown: Sequence[EncodedSample],
        drafts: Sequence[Tokens],
        reference: Reference,
    ) -> tuple[SampleQuality, ...]:
        tokenizer = Tokenizer(self._checkpoint.path)
        found = []
        for index, sample in enumerate(shown):
            differences = _compare(rounded, sample, reference.kept[index])
            found.append(_summarise(reference, index, differences, drafts, tokenizer, self._stops))
            self._progress(f"{STAGE}: comparison", index + 1, len(shown))
        return tuple(found)


def _compare(rounded: RoundedModel, sample: EncodedSample, kept: TopLogits) -> list[Difference]:
    differences = []
    start = 0
    for branch in sample.branches:
        answer = torch.tensor(branch.answer)
        for logits in rounded.logit_blocks(sample, branch):
            targets, answer = answer[: len(logits)], answer[len(logits) :]
            differences.append(compare_logits(kept.part(start, start + len(logits)), logits, targets))
            start += len(logits)
    return differences


def _summarise(
    reference: Reference,
    sample: int,
    differences: Sequence[Difference],
    drafts: Sequence[Tokens],
    tokenizer: Tokenizer,
    stops: Tokens,
) -> SampleQuality:
    one = reference.held.samples[sample]
    letters: tuple[list[str | None], list[str | None]] = ([], [])
    errors = [0, 0]
    characters = 0
    for index, asked in enumerate(asked_questions(reference.held)):
        if asked.sample != sample:
            continue
        texts = [_text(answers[index], tokenizer, stops) for answers in (drafts, reference.greedy.answers)]
        truth = one.sample.turns[asked.turn].answer
        if one.kinds[asked.turn] == "choice" and one.question is not None:
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
        reference_loss=-float(reference.kept[sample].target_log_probabilities.sum()),
        tail=sum(float(difference.tail.sum()) for difference in differences),
        characters=characters,
        errors=errors[0],
        reference_errors=errors[1],
        questions=len(letters[0]) // ROTATIONS,
        right=right[0],
        reference_right=right[1],
    )


def _text(answer: Tokens, tokenizer: Tokenizer, stops: Tokens) -> str:
    return tokenizer.decode([token for token in answer if token not in stops])
