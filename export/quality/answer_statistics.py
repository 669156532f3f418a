"""Compares two models' distributions at the tokens of given answers, without keeping all logits of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

KEPT_LOGITS = 64
"""Number of the reference's likeliest tokens that are kept for each position."""


@dataclass(frozen=True)
class TopLogits:
    """The reference's distributions at n positions."""

    tokens: torch.Tensor
    """(n, kept) int64: the ids of the kept tokens, the likeliest first."""
    log_probabilities: torch.Tensor
    """(n, kept) float64: natural logarithms of their probabilities."""
    target_log_probabilities: torch.Tensor
    """(n,) float64: natural logarithm of the true token's probability."""

    def part(self, start: int, stop: int) -> TopLogits:
        """The distributions at the positions from `start` up to `stop`."""
        rows = slice(start, stop)
        return TopLogits(self.tokens[rows], self.log_probabilities[rows], self.target_log_probabilities[rows])


def join_top_logits(parts: Sequence[TopLogits]) -> TopLogits:
    """The distributions at the positions of all parts, in their order; at least one."""
    return TopLogits(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.log_probabilities for part in parts]),
        torch.cat([part.target_log_probabilities for part in parts]),
    )


@dataclass(frozen=True)
class Difference:
    """How another model differs from the reference at n positions."""

    kl: torch.Tensor
    """(n,) float64: KL divergence in nats, as `compare_logits` computes it."""
    same_top: torch.Tensor
    """(n,) bool: whether both models find the same token the likeliest."""
    surprise: torch.Tensor
    """(n,) float64: by how many nats the true token is less likely than for the reference."""
    tail: torch.Tensor
    """(n,) float64: the reference's probability of all tokens that are not kept."""


class TopLogitsBuilder:
    """Collects the logits of n positions, one block of the vocabulary after the other.

    Args:
        targets: The true tokens, (n,) int64.
        kept: Number of likeliest tokens to keep.
    """

    def __init__(self, targets: torch.Tensor, kept: int = KEPT_LOGITS) -> None:
        self._targets = targets
        self._kept = kept
        self._first = 0
        self._log_sum = torch.full(targets.shape, -torch.inf, dtype=torch.float64)
        self._target = torch.zeros(targets.shape, dtype=torch.float64)
        self._values = torch.empty(len(targets), 0)
        self._tokens = torch.empty(len(targets), 0, dtype=torch.int64)

    def add(self, logits: torch.Tensor) -> None:
        """Adds the logits of the next tokens of the vocabulary.

        Args:
            logits: (n, block) float32.
        """
        count = logits.shape[1]
        self._log_sum = torch.logaddexp(self._log_sum, logits.to(torch.float64).logsumexp(dim=1))
        inside = (self._targets >= self._first) & (self._targets < self._first + count)
        rows = inside.nonzero()[:, 0]
        self._target[rows] = logits[rows, self._targets[rows] - self._first].to(torch.float64)
        values, places = logits.topk(min(self._kept, count), dim=1)
        self._values = torch.cat((self._values, values), dim=1)
        self._tokens = torch.cat((self._tokens, places + self._first), dim=1)
        if self._values.shape[1] > self._kept:
            self._values, order = self._values.topk(self._kept, dim=1)
            self._tokens = self._tokens.gather(1, order)
        self._first += count

    def result(self) -> TopLogits:
        """The distributions, when all of the vocabulary was added."""
        values, order = self._values.sort(dim=1, descending=True, stable=True)
        return TopLogits(
            self._tokens.gather(1, order),
            values.to(torch.float64) - self._log_sum[:, None],
            self._target - self._log_sum,
        )


def top_logits(blocks: Iterable[torch.Tensor], targets: torch.Tensor, kept: int = KEPT_LOGITS) -> TopLogits:
    """The distributions of logits that come in blocks of the vocabulary.

    Args:
        blocks: Each (n, block) float32.
        targets: The true tokens, (n,) int64.
        kept: Number of likeliest tokens to keep.
    """
    builder = TopLogitsBuilder(targets, kept)
    for block in blocks:
        builder.add(block)
    return builder.result()


def compare_logits(reference: TopLogits, logits: torch.Tensor, targets: torch.Tensor) -> Difference:
    """Compares another model's logits with what was kept of the reference's.

    KL(reference || other) is computed over the kept tokens and one more that stands for all other tokens. By the
    log-sum inequality that is never more than the true divergence, and it misses at most the divergence among the
    other tokens, weighted with their probability, which is reported as `tail`.

    Args:
        reference: The reference's distributions at the same n positions.
        logits: The other model's logits, (n, vocabulary) float32.
        targets: The true tokens, (n,) int64.
    """
    wide = logits.to(torch.float64)
    wide = wide - wide.logsumexp(dim=1, keepdim=True)
    other = wide.gather(1, reference.tokens)  # (n, kept)
    ours = reference.log_probabilities
    probabilities = ours.exp()
    kl = (probabilities * (ours - other)).sum(dim=1)
    tail = (1 - probabilities.sum(dim=1)).clamp(min=0)
    other_tail = (1 - other.exp().sum(dim=1)).clamp(min=1e-300)
    kl = kl + torch.where(tail > 0, tail * (tail.clamp(min=1e-300).log() - other_tail.log()), 0.0)
    true = wide.gather(1, targets[:, None])[:, 0]
    return Difference(
        kl.clamp(min=0),
        logits.argmax(dim=1) == reference.tokens[:, 0],
        reference.target_log_probabilities - true,
        tail,
    )
