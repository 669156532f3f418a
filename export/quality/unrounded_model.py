"""Runs a checkpoint's own decoder in float32, layer by layer: the reference that a bundle is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from valley2_edge.calibration.activations import open_activations
from valley2_edge.calibration.decoder_block import rms_norm
from valley2_edge.calibration.encode import EncodedSample
from valley2_edge.calibration.packs import pack_samples
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.layers import norm_weight, row_blocks, run_unrounded, split_parts
from valley2_edge.export.quality.answer_statistics import TopLogits, TopLogitsBuilder, join_top_logits

_HEAD_ROWS = 4096
"""Rows of the output matrix in memory at a time."""
_HEAD_POSITIONS = 2048
"""Positions whose logits, for so many rows of the output matrix, are in memory at a time."""


class UnroundedModel:
    """The decoder of a checkpoint, one layer in memory at a time.

    Args:
        checkpoint: The model.
        scratch: A file for activations that do not stay in memory; each run makes and removes it.
        in_memory_bytes: Memory for activations and a copy of them; where it is too little, they lie in the file.
        on_layer: Called with the number of finished layers and the number of all layers of a run.
    """

    def __init__(
        self, checkpoint: Checkpoint, scratch: Path, in_memory_bytes: int, on_layer: Callable[[int, int], None]
    ) -> None:
        self._checkpoint = checkpoint
        self._scratch = scratch
        self._in_memory_bytes = in_memory_bytes
        self._on_layer = on_layer
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self, samples: Sequence[EncodedSample]) -> list[TopLogits]:
        """Computes the model's distributions at the rows that predict an answer.

        Args:
            samples: One sample or more.

        Returns:
            For each sample the distributions over the answers of its branches, one answer behind the other.

        Raises:
            NumericError: A layer computed a NaN or an infinity; the message names it.
        """
        config = self._checkpoint.config.decoder
        pairs = list(pack_samples(samples))
        packs = [pack for pack, _ in pairs]
        lengths = [pack.rows for pack in packs]
        # The rows that predict the answers, nearly all rows of long ones, are copied at the end.
        in_memory = 2 * 4 * sum(lengths) * config.hidden_size <= self._in_memory_bytes
        activations = open_activations(self._scratch, lengths, config.hidden_size, in_memory=in_memory, saved=False)
        try:
            for number, (_, embeddings) in enumerate(pairs):
                activations.write(number, embeddings)
            del pairs
            with torch.inference_mode():
                run_unrounded(self._checkpoint, config, packs, activations, self._device, self._on_layer)
                rows = [activations.read(number)[pack.target_rows] for number, pack in enumerate(packs)]
                targets = torch.cat([pack.targets[pack.target_rows] for pack in packs])
                kept = self._head(torch.cat(rows), targets)
        finally:
            activations.close()
            self._scratch.unlink(missing_ok=True)
        return list(_split(kept, [sum(len(branch.answer) for branch in sample.branches) for sample in samples]))

    def _head(self, hidden: torch.Tensor, targets: torch.Tensor) -> TopLogits:
        """The distributions of rows (n, hidden), computed one block of the vocabulary at a time."""
        config = self._checkpoint.config.decoder
        _, head = split_parts(config)
        norm = norm_weight(self._checkpoint, head.norm).to(self._device)
        inputs = rms_norm(hidden.to(self._device), norm, config.rms_norm_eps)
        parts = [slice(start, start + _HEAD_POSITIONS) for start in range(0, len(targets), _HEAD_POSITIONS)]
        builders = [TopLogitsBuilder(targets[part]) for part in parts]
        for weights in row_blocks(self._checkpoint, head.lm_head, _HEAD_ROWS):
            columns = weights.to(self._device).T
            for builder, part in zip(builders, parts, strict=True):
                builder.add((inputs[part] @ columns).cpu())
        return join_top_logits([builder.result() for builder in builders])


def _split(kept: TopLogits, counts: Sequence[int]) -> Iterator[TopLogits]:
    start = 0
    for count in counts:
        yield kept.part(start, start + count)
        start += count
