"""The figures of a bundle's quality, summed over held-out samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from valley2_edge.eval.intervals import Estimate, bootstrap_ratio
from valley2_edge.export.quality.answer_statistics import KEPT_LOGITS
from valley2_edge.export.quality.rounded_model import Activations


@dataclass(frozen=True)
class SampleQuality:
    """What was found on one held-out sample."""

    positions: int
    """Number of tokens of the true answers."""
    kl: float
    """Sum of the KL divergences over the positions, in nats."""
    same_top: int
    """Number of positions at which both models find the same token the likeliest."""
    surprise: float
    """Sum over the positions of the nats by which the true token is less likely than for the reference."""
    reference_loss: float
    """Sum over the positions of the nats by which the true token surprises the reference."""
    tail: float
    """Sum over the positions of the reference's probability of tokens that are not kept."""
    characters: int
    """Number of characters of the texts that were to be read."""
    errors: int
    """Number of characters that the bundle read wrongly."""
    reference_errors: int
    """Number of characters that the unrounded model read wrongly."""
    questions: int
    """Number of questions with options."""
    right: int
    """Number of questions that the bundle answered rightly in all four orders of the options."""
    reference_right: int
    """Number of questions that the unrounded model answered rightly in all four orders of the options."""


@dataclass(frozen=True)
class Quality:
    """How much a bundle lost against its checkpoint."""

    samples: tuple[SampleQuality, ...]
    sha256: str
    """SHA-256 of the held-out set."""
    reference_runs: int
    """Number of runs of the unrounded model."""
    inexact_answers: int
    """Number of its answers that were not verified to their end."""
    activations: Activations = "int8"
    """What the bundle's activations were rounded to while it ran."""
    own_samples: tuple[SampleQuality, ...] = ()
    """What was found on the held-out lines of the user's own calibration file."""
    own_name: str = ""
    """Name of that file."""
    own_sha256: str = ""
    """SHA-256 of these lines."""

    def figures(self) -> dict[str, Any]:
        """The figures for the manifest's `quality`, with intervals of 95 % from a bootstrap over samples."""
        found = {
            **_distance(self.samples),
            "character_error_rate": self._against_reference("errors", "reference_errors", "characters"),
            "ecom_vqa": self._against_reference("right", "reference_right", "questions"),
            "held_out": {
                "sha256": self.sha256,
                "samples": len(self.samples),
                **_positions(self.samples),
                "activations": self.activations,
                "kept_logits": KEPT_LOGITS,
                "reference_runs": self.reference_runs,
                "inexact_answers": self.inexact_answers,
            },
        }
        if self.own_samples:
            found["own_text"] = self._own_text()
        return found

    def _own_text(self) -> dict[str, Any]:
        own = self.own_samples
        sizes = [sample.positions for sample in own]
        reference = sum(sample.reference_loss for sample in own) / sum(sizes)
        loss = bootstrap_ratio([sample.reference_loss + sample.surprise for sample in own], sizes)
        return {
            **_distance(own),
            "perplexity": {**_facts(_exp(loss)), "reference": _number(math.exp(reference))},
            "name": self.own_name,
            "sha256": self.own_sha256,
            "samples": len(own),
            **_positions(own),
        }

    def mean_kl(self) -> float:
        """Mean KL divergence in nats a position, on the generator's samples."""
        return sum(sample.kl for sample in self.samples) / sum(sample.positions for sample in self.samples)

    def _against_reference(self, found: str, reference: str, size: str) -> dict[str, float] | None:
        sizes = [getattr(sample, size) for sample in self.samples]
        if not sum(sizes):
            return None
        ours = [getattr(sample, found) for sample in self.samples]
        theirs = [getattr(sample, reference) for sample in self.samples]
        change = bootstrap_ratio([a - b for a, b in zip(ours, theirs, strict=True)], sizes)
        return {
            **_facts(bootstrap_ratio(ours, sizes)),
            "reference": _number(sum(theirs) / sum(sizes)),
            "change": _number(change.value),
            "change_low": _number(change.low),
            "change_high": _number(change.high),
        }


def _distance(samples: Sequence[SampleQuality]) -> dict[str, Any]:
    """How far the bundle is from the unrounded model over the true answers of some samples."""
    positions = [sample.positions for sample in samples]
    return {
        "mean_kl": _facts(bootstrap_ratio([sample.kl for sample in samples], positions)),
        "same_top": _facts(bootstrap_ratio([sample.same_top for sample in samples], positions)),
        "perplexity_ratio": _facts(_exp(bootstrap_ratio([sample.surprise for sample in samples], positions))),
    }


def _positions(samples: Sequence[SampleQuality]) -> dict[str, float]:
    positions = sum(sample.positions for sample in samples)
    return {"positions": positions, "mean_tail": _number(sum(sample.tail for sample in samples) / positions)}


def _exp(estimate: Estimate) -> Estimate:
    return Estimate(*(math.exp(limit) for limit in (estimate.value, estimate.low, estimate.high)))


def _facts(estimate: Estimate) -> dict[str, float]:
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}


def _number(value: float) -> float:
    return float(f"{value:.6g}")
