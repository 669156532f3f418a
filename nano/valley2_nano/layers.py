"""Parts that the towers and the decoder share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """A linear layer whose fp32 weights are rounded to the type of its input."""

    def forward(self, value: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), in the input's type."""
        return linear(value, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """A layer norm in fp32 whose result has the type of the matrix product that follows."""

    def forward(self, value: Tensor, kind: torch.dtype | None = None) -> Tensor:
        """(..., size) fp32 to (..., size) of the given type."""
        norm = functional.layer_norm(value, self.normalized_shape, self.weight, self.bias, self.eps)
        return norm if kind is None else norm.to(kind)


class RmsNorm(nn.Module):
    """The decoder's norm (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization")."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, value: Tensor, kind: torch.dtype | None = None) -> Tensor:
        """(..., size) fp32 to (..., size) of the given type."""
        norm = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return norm if kind is None else norm.to(kind)


def linear(value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Value (..., inputs) times weight (outputs, inputs) transposed, plus bias, all in the type of the value."""
    return functional.linear(value, weight.to(value.dtype), None if bias is None else bias.to(value.dtype))


def present(value: Tensor | None) -> Tensor:
    """A tensor that torch's types call optional.

    Raises:
        ValueError: It is not there.
    """
    if value is None:
        raise ValueError("A layer has no bias.")
    return value


def rotate(value: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates channel i with channel i + half.

    Args:
        value: (tokens, heads, head size).
        cosines: (tokens, 1, head size / 2) float32.
        sines: As the cosines.
    """
    first, second = value.float().chunk(2, -1)
    rotated = torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)
    return rotated.to(value.dtype)


class _Gather(torch.autograd.Function):
    """Rows of a table, each taken at most once, so that the gradient needs no addition."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, table: Tensor, rows: Tensor) -> Tensor:
        context.save_for_backward(rows)
        context.height = table.shape[0]  # type: ignore[attr-defined]
        return table.index_select(0, rows)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (rows,) = context.saved_tensors  # type: ignore[attr-defined]
        height = context.height  # type: ignore[attr-defined]
        return gradient.new_zeros((height, *gradient.shape[1:])).index_copy_(0, rows, gradient), None


def gather_once(table: Tensor, rows: Tensor) -> Tensor:
    """table[rows] where no row occurs twice.

    Args:
        table: (height, channels).
        rows: (n,) int64, all different.

    Returns:
        (n, channels).
    """
    gathered: Tensor = _Gather.apply(table, rows)  # type: ignore[no-untyped-call]
    return gathered


class _Scatter(torch.autograd.Function):
    """Rows put into a larger table of zeros, each to a place of its own."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, value: Tensor, places: Tensor, height: int) -> Tensor:
        context.save_for_backward(places)
        return value.new_zeros((height, *value.shape[1:])).index_copy_(0, places, value)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (places,) = context.saved_tensors  # type: ignore[attr-defined]
        return gradient.index_select(0, places), None, None


def pixels_linear(pixels: Tensor, weight: Tensor, scale: Tensor, offset: Tensor, kind: torch.dtype) -> Tensor:
    """A linear layer on pixels that are normalised by the weights instead of one by one.

    Args:
        pixels: (rows, inputs) int8, the 8-bit values less 128: bf16 holds them exactly.
        weight: (outputs, inputs).
        scale: (inputs,) or (): the normalised value is pixel * scale + offset.
        offset: As the scale.
        kind: Type of the product.

    Returns:
        (rows, outputs) fp32.
    """
    scaled = (weight * scale).to(kind)
    constant = (scaled.float() * (offset / scale)).sum(1)  # (outputs,): of the rounded weights, so that both agree
    return functional.linear(pixels.to(kind), scaled).float() + constant


def scatter_once(value: Tensor, places: Tensor, height: int) -> Tensor:
    """A table of zeros with value[i] in row places[i].

    Args:
        value: (n, channels).
        places: (n,) int64, all different.
        height: Rows of the table.

    Returns:
        (height, channels).
    """
    table: Tensor = _Scatter.apply(value, places, height)  # type: ignore[no-untyped-call]
    return table


def mix(joined: Tensor) -> Tensor:
    """Full attention written out, which trains several times faster on a CPU than the fused kernel's backward pass.

    Args:
        joined: Queries, keys and values (pictures, tokens, 3, heads, head size).

    Returns:
        (pictures * tokens, heads * head size).
    """
    pictures, heads = joined.shape[0], joined.shape[3]
    # Each (pictures * heads, tokens, head size)
    query, key, values = joined.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
    scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
    mixed = torch.bmm(torch.softmax(scores, -1), values)
    return torch.unflatten(mixed, 0, (pictures, heads)).transpose(1, 2).flatten(2).flatten(0, 1)
