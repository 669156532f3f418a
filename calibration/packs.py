"""Packs several samples into one sequence without letting one attend to another.

Every sample's positions begin at 0, and every branch of it continues the positions of the prefix, so that each row is
what it would be alone (arXiv 2107.02027). Matrices work on whole packs; attention works on one branch at a time, which
is block-diagonal attention without the blocks that would be masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from valley2_edge.calibration.encode import NO_TARGET, EncodedSample

PACK_TOKENS = 2048
"""Largest number of rows of a pack; a longer sample is a pack of its own."""


@dataclass(frozen=True)
class Span:
    """Where one sample lies in its pack."""

    start: int
    """The first row."""
    prefix: int
    """Number of rows that all branches attend to."""
    branches: tuple[int, ...]
    """Number of rows of each branch."""

    @property
    def stop(self) -> int:
        """The row behind the last one."""
        return self.start + self.prefix + sum(self.branches)


@dataclass(frozen=True)
class Pack:
    """What is known about the rows of a pack besides their embeddings."""

    spans: tuple[Span, ...]
    is_picture: torch.Tensor
    """(rows,) bool: whether a row belongs to a picture."""
    targets: torch.Tensor
    """(rows,) int64: the token of an answer that a row predicts, or `NO_TARGET`."""

    @property
    def rows(self) -> int:
        """Number of rows of the sequence."""
        return self.spans[-1].stop

    @property
    def target_rows(self) -> torch.Tensor:
        """The rows that predict a token of an answer, (n,) int64."""
        return (self.targets != NO_TARGET).nonzero()[:, 0]

    def positions(self) -> torch.Tensor:
        """The position of each row in its sample, (rows,) int64."""
        places = []
        for span in self.spans:
            places.append(torch.arange(span.prefix))
            places += [torch.arange(span.prefix, span.prefix + rows) for rows in span.branches]
        return torch.cat(places)

    def describe(self) -> dict[str, Any]:
        """The pack as plain JSON, for a file."""
        return {
            "spans": [[span.start, span.prefix, list(span.branches)] for span in self.spans],
            "is_picture": self.is_picture.to(torch.uint8).tolist(),
            "targets": self.targets.tolist(),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Pack:
        """Restores a pack.

        Args:
            description: What `describe` returned.
        """
        spans = tuple(Span(start, prefix, tuple(branches)) for start, prefix, branches in description["spans"])
        return cls(
            spans,
            torch.tensor(description["is_picture"], dtype=torch.bool),
            torch.tensor(description["targets"], dtype=torch.int64),
        )


def pack_samples(
    samples: Iterable[EncodedSample], max_tokens: int = PACK_TOKENS
) -> Iterator[tuple[Pack, torch.Tensor]]:
    """Packs samples in their order.

    Args:
        samples: The encoded samples.
        max_tokens: Largest number of rows of a pack; a longer sample is a pack of its own.

    Yields:
        A pack and its embeddings (rows, hidden) float32.
    """
    waiting: list[EncodedSample] = []
    rows = 0
    for sample in samples:
        count = len(sample.embeddings)
        if waiting and rows + count > max_tokens:
            yield _join(waiting)
            waiting, rows = [], 0
        waiting.append(sample)
        rows += count
    if waiting:
        yield _join(waiting)


def _join(samples: Sequence[EncodedSample]) -> tuple[Pack, torch.Tensor]:
    spans: list[Span] = []
    for sample in samples:
        start = spans[-1].stop if spans else 0
        spans.append(Span(start, sample.prefix_rows, tuple(len(branch.tokens) for branch in sample.branches)))
    pack = Pack(
        tuple(spans),
        torch.cat([torch.from_numpy(sample.is_picture) for sample in samples]),
        torch.cat([torch.from_numpy(sample.targets) for sample in samples]),
    )
    return pack, torch.cat([torch.from_numpy(sample.embeddings) for sample in samples])
