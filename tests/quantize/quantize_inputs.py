"""Weights and correlated inputs that the tests of this folder share."""

from __future__ import annotations

import torch

from valley2_edge.quantize.hessian import Hessian


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """(rows, columns) float32 weights."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def correlated(tokens: int, columns: int, seed: int = 1) -> torch.Tensor:
    """(tokens, columns) float32 inputs: few directions carry most of them, some columns are large."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns // 4, columns, generator=generator)
    sizes = torch.exp(torch.randn(columns, generator=generator))
    hidden = torch.randn(tokens, columns // 4, generator=generator)
    return (hidden @ mixing + torch.randn(tokens, columns, generator=generator)) * sizes


def hessian_of(inputs: torch.Tensor, name: str = "m") -> Hessian:
    """The Hessian of one batch."""
    hessian = Hessian(inputs.shape[1], name)
    hessian.add(inputs)
    return hessian


def hessian_from(matrix: torch.Tensor, name: str = "m") -> Hessian:
    """A Hessian of which only the matrix is known."""
    tensors = {"matrix": matrix.float(), "token_count": torch.tensor(1), "weight_total": torch.tensor(1.0)}
    return Hessian.from_tensors(tensors, name)
