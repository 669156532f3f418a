"""Reads the weights of one component of a checkpoint and counts them for a progress display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from valley2_edge.export.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True)
class Weights:
    """Reads tensors of a checkpoint and reports each of them."""

    checkpoint: Checkpoint
    on_tensor: Callable[[], None]
    """Called after every tensor that was read."""

    def read(self, name: str) -> torch.Tensor:
        """Reads one tensor in its stored dtype.

        Args:
            name: The tensor's name in the checkpoint.

        Raises:
            CheckpointError: There is no such tensor, or its file cannot be read.
        """
        tensor = self.checkpoint.tensor(name)
        self.on_tensor()
        return tensor
