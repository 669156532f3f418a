"""Runs the unrounded layers beside the rounded ones, and keeps what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from valley2_edge.calibration.activations import Activations
from valley2_edge.calibration.packs import Pack
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.layers import LayerParts, LayerWeights, check_finite, feed_forward
from valley2_edge.export.rounding.work_meter import WorkMeter


@dataclass(frozen=True)
class ExactLayer:
    """The residual stream of the unrounded model at three places of a layer, (rows, hidden) for every pack."""

    source: Activations
    """Before the layer."""
    middle: Activations
    """After attention."""
    target: Activations
    """After the layer."""


class ExactStream:
    """The calibration set on its way through the unrounded layers.

    Args:
        checkpoint: Where the weights come from.
        packs: The calibration set.
        source: The residual stream before the next layer.
        middle: Room for the residual stream after the attention of a layer.
        device: The device that computes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        packs: Sequence[Pack],
        source: Activations,
        middle: Activations,
        device: torch.device,
    ) -> None:
        self._checkpoint = checkpoint
        self._packs = packs
        self._source = source
        self._middle = middle
        self._device = device

    @property
    def source(self) -> Activations:
        """The residual stream before the next layer."""
        return self._source

    def run(self, number: int, parts: LayerParts, target: Activations, meter: WorkMeter) -> ExactLayer:
        """Runs a layer.

        Args:
            number: Number of the layer, for messages.
            parts: The layer.
            target: Gets the layer's output.
            meter: Counts the work.

        Returns:
            What the layer computed, until the next layer runs.

        Raises:
            NumericError: The layer computed a NaN or an infinity.
        """
        config, device = self._checkpoint.config.decoder, self._device
        weights = LayerWeights.read(self._checkpoint, parts, device)
        for index, pack in enumerate(self._packs):
            with meter.measured("exact", float(parts.weight_count * pack.rows)):
                hidden = self._source.read(index).to(device)  # (rows, hidden)
                hidden += weights.attend(hidden, pack, config) @ weights.output.T
                self._middle.write(index, hidden.cpu())
                hidden = feed_forward(
                    hidden, weights.post_attention_norm, weights.gate_up, weights.down, config.rms_norm_eps
                )
            check_finite(hidden, number, "the unrounded decoder")
            target.write(index, hidden.cpu())
        return ExactLayer(self._source, self._middle, target)

    def advance(self, source: Activations | None = None) -> None:
        """Goes on to the next layer, or ends.

        Args:
            source: The residual stream before the next layer; None where there is none.
        """
        self._source.close()
        if source is None:
            self._middle.close()
        else:
            self._source = source
