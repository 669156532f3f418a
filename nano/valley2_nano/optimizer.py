"""The optimisers of the training: Muon for the hidden matrices, AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HIDDEN = ("layers.", "blocks.", "merger.mlp", "mm_projector.mlp.0")
"""Parts of the names of matrices whose two sides are both hidden: no embeddings, no output head, no pixels."""


class Optimizer:
    """One or two of torch's optimisers under one learning rate.

    Args:
        model: Its parameters.
        muon: Take Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") for the hidden
            matrices, with updates scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training").
        weight_decay: Of matrices.
    """

    def __init__(self, model: nn.Module, *, muon: bool, weight_decay: float) -> None:
        named = list(model.named_parameters())
        hidden = [value for name, value in named if muon and value.ndim == 2 and any(part in name for part in HIDDEN)]
        taken = {id(value) for value in hidden}
        matrices = [value for _, value in named if value.ndim >= 2 and id(value) not in taken]
        vectors = [value for _, value in named if value.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)]
        if hidden:
            self._parts.append(
                torch.optim.Muon(hidden, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, rate: float) -> None:
        """Makes one step at a learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state(self) -> list[dict[str, Any]]:
        """What a resumed run needs."""
        return [part.state_dict() for part in self._parts]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Takes the state of a run with the same options."""
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)
