"""The optimisers of the training: Muon for the hidden matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

HIDDEN = ("layers.", "blocks.", "merger.mlp", "mm_projector.mlp.0")
"""Parts of the names of matrices whose two sides are both hidden: no embeddings, no output head, no pixels."""

_MOMENTUM = 0.95
# Coefficients of the quintic Newton-Schulz iteration, steepest at zero (Jordan et al. 2024)
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_ADAM_RMS = 0.2
"""Root mean square of AdamW's usual update, in units of the rate."""

PIXELS = ("patch_embed",)
PIXEL_FACTOR = 0.25
"""Neighbouring pixels are nearly equal, so that AdamW's equal steps of their weights add up."""
WIDTH = 256
"""Inputs of a matrix up to which it learns at the full rate (Yang et al. 2022, "Tensor Programs V", table 8)."""
TOWERS = ("model.vision_tower.", "model.mm_projector.", "model.qwen2vl_vision_tower.")


class Optimizer:
    """Two optimisers under one learning rate.

    Args:
        model: Its parameters.
        muon: Take Muon for the hidden matrices; otherwise AdamW for all.
        weight_decay: Of matrices.
        tower_factor: Share of the learning rate for the vision towers and the projector.
    """

    def __init__(self, model: nn.Module, *, muon: bool, weight_decay: float, tower_factor: float = 1.0) -> None:
        hidden: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for name, value in model.named_parameters():
            factor = tower_factor if name.startswith(TOWERS) else 1.0
            group = {"params": [value], "weight_decay": weight_decay if value.ndim >= 2 else 0.0, "factor": factor}
            if muon and value.ndim == 2 and any(part in name for part in HIDDEN):
                hidden.append(group)
            else:
                group["factor"] = factor * _width_factor(name, value)
                others.append(group)
        self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), fused=True)]
        if hidden:
            self._parts.append(_Muon(hidden))

    def step(self, rate: float) -> None:
        """Makes one step at a learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate * group["factor"]
            part.step()

    def state(self) -> list[dict[str, Any]]:
        """What a resumed run needs."""
        return [part.state_dict() for part in self._parts]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Takes the state of a run with the same options."""
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


class _Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").

    Updates are scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2). The
    training processes share the orthogonalisation out among themselves.
    """

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        trained = [(group, matrix) for group in self.param_groups for matrix in group["params"]]
        trained = [(group, matrix) for group, matrix in trained if matrix.grad is not None]
        updates = self._updates([matrix for _, matrix in trained])
        for (group, matrix), update in zip(trained, updates, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.sub_(update, alpha=group["lr"] * _ADAM_RMS * max(matrix.shape) ** 0.5)

    def _updates(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The update of each matrix that has a gradient; all processes have gradients of the same ones."""
        workers = distributed.get_world_size() if distributed.is_initialized() else 1
        rank = distributed.get_rank() if workers > 1 else 0
        owners = _shares([matrix.numel() * min(matrix.shape) for matrix in matrices], workers)
        updates = []
        for matrix, owner in zip(matrices, owners, strict=True):
            state = self.state[matrix]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            gradient = matrix.grad
            if gradient is None:
                raise ValueError("A matrix has no gradient.")
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
            if owner == rank:
                updates.append(_orthogonal(gradient.lerp(momentum, _MOMENTUM)))
            else:
                updates.append(torch.zeros_like(matrix))
        if workers == 1:
            return updates
        flat = torch.cat([update.flatten() for update in updates])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [matrix.numel() for matrix in matrices])
        return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]


def _width_factor(name: str, value: Tensor) -> float:
    """Share of the learning rate for a parameter that AdamW trains."""
    if value.ndim < 2:
        return 1.0
    pixels = any(part in name for part in PIXELS)
    return min(1.0, WIDTH / value[0].numel()) * (PIXEL_FACTOR if pixels else 1.0)


def _shares(costs: Sequence[int], workers: int) -> list[int]:
    """The worker of each piece of work: the most expensive piece first, each to the worker with the least so far."""
    totals, owners = [0] * workers, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = totals.index(min(totals))
        totals[owners[index]] += costs[index]
    return owners


def _orthogonal(gradient: Tensor) -> Tensor:
    """The nearest matrix with singular values around 1, in fp32."""
    a, b, c = _COEFFICIENTS
    tall = gradient.shape[0] > gradient.shape[1]
    value = (gradient.T if tall else gradient).bfloat16()
    value = value / value.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = value @ value.T
        value = torch.addmm(value, torch.addmm(gram, gram, gram, beta=b, alpha=c), value, beta=a)
    return (value.T if tall else value).float()
