"""Makes the transformer layers of the native towers as parts of their files."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from valley2_edge.export.bundle.safetensors_stream import TensorPlan
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_file import MatrixPlan, Part, Tensors, padded_vector, vector_plan
from valley2_edge.export.vision.smoothing import NormedMatrix, balance, smooth
from valley2_edge.precisions import VisionPrecision


@dataclass(frozen=True)
class Linear:
    """A matrix of the checkpoint with its bias."""

    weight: torch.Tensor
    """(outputs, columns) float32."""
    bias: torch.Tensor
    """(outputs,) float32."""


@dataclass(frozen=True)
class Norm:
    """A LayerNorm of the checkpoint."""

    weight: torch.Tensor
    """(channels,) float32."""
    bias: torch.Tensor
    """(channels,) float32."""


@dataclass(frozen=True)
class LayerNames:
    """What a checkpoint calls the tensors of a layer, behind the layer's own prefix and before `weight` or `bias`."""

    norm1: str
    qkv: tuple[str, ...]
    """The matrix of the queries, keys and values, or those of each of them."""
    output: str
    norm2: str
    up: str
    down: str


@dataclass(frozen=True)
class LayerSource:
    """Reads the tensors of one layer of a checkpoint."""

    weights: Weights
    prefix: str
    """What the names of the layer's tensors begin with."""
    names: LayerNames

    def linear(self, *names: str) -> Linear:
        """A matrix, or the rows of several one below the other."""
        return read_linear(self.weights, *(self.prefix + name for name in names))

    def norm(self, name: str) -> Norm:
        """A LayerNorm."""
        return read_norm(self.weights, self.prefix + name)


def read_linear(weights: Weights, *sources: str) -> Linear:
    """Reads one matrix, or several and puts their rows one below the other.

    Args:
        weights: Reads the checkpoint.
        sources: Prefixes of the tensors in the checkpoint.
    """
    return Linear(
        torch.cat([weights.read(f"{source}.weight").float() for source in sources]),
        torch.cat([weights.read(f"{source}.bias").float() for source in sources]),
    )


def read_norm(weights: Weights, source: str) -> Norm:
    """Reads one LayerNorm.

    Args:
        weights: Reads the checkpoint.
        source: Prefix of the tensors in the checkpoint.
    """
    return Norm(weights.read(f"{source}.weight").float(), weights.read(f"{source}.bias").float())


def layer_parts(index: int, source: LayerSource, width: int, middle: int, precision: VisionPrecision) -> list[Part]:
    """The parts of one layer.

    Args:
        index: Number of the layer.
        source: Reads the layer's tensors.
        width: Number of channels of a token.
        middle: Number of channels inside the MLP.
        precision: Precision of the layer's matrices.
    """
    name, names = f"layers.{index}.", source.names
    qkv = MatrixPlan(name + "qkv", precision, 3 * width, width, bias=True)
    output = MatrixPlan(name + "output", precision, width, width, bias=True)
    up = MatrixPlan(name + "up", precision, middle, width, bias=True)
    down = MatrixPlan(name + "down", precision, width, middle, bias=True)

    def attention() -> Tensors:
        mixing, last = source.linear(*names.qkv), source.linear(names.output)
        if precision == "int8":
            mixing, last = _balanced(mixing, last, width)
        normed, matrix = _normed(source.norm(names.norm1), mixing, precision)
        return (
            norm_tensors(name + "norm1", normed)
            | qkv.pack(matrix.weight, matrix.bias)
            | output.pack(last.weight, last.bias)
        )

    def mlp() -> Tensors:
        normed, matrix = _normed(source.norm(names.norm2), source.linear(names.up), precision)
        last = source.linear(names.down)
        return (
            norm_tensors(name + "norm2", normed)
            | up.pack(matrix.weight, matrix.bias)
            | down.pack(last.weight, last.bias)
        )

    return [
        Part([*norm_plan(name + "norm1", width), *qkv.tensors(), *output.tensors()], [qkv, output], attention),
        Part([*norm_plan(name + "norm2", width), *up.tensors(), *down.tensors()], [up, down], mlp),
    ]


def norm_plan(name: str, width: int) -> list[TensorPlan]:
    """The plan of a LayerNorm's tensors.

    Args:
        name: Prefix of the tensors.
        width: Number of channels.
    """
    return [vector_plan(f"{name}.weight", width), vector_plan(f"{name}.bias", width)]


def norm_tensors(name: str, norm: Norm) -> Tensors:
    """The tensors of a LayerNorm as the file holds them.

    Args:
        name: Prefix of the tensors.
        norm: The LayerNorm.
    """
    return {
        f"{name}.weight": padded_vector(f"{name}.weight", norm.weight),
        f"{name}.bias": padded_vector(f"{name}.bias", norm.bias),
    }


def _normed(norm: Norm, linear: Linear, precision: VisionPrecision) -> tuple[Norm, Linear]:
    if precision != "int8":
        return norm, linear
    smoothed = smooth(NormedMatrix(norm.weight, norm.bias, linear.weight, linear.bias))
    return Norm(smoothed.norm_weight, smoothed.norm_bias), Linear(smoothed.weight, smoothed.bias)


def _balanced(qkv: Linear, output: Linear, width: int) -> tuple[Linear, Linear]:
    """Makes the value channels equally large: attention sums them over tokens, so a factor passes through it."""
    values, bias = qkv.weight[2 * width :], qkv.bias[2 * width :]
    factor = balance(values, bias, output.weight)
    weight = torch.cat([qkv.weight[: 2 * width], values / factor[:, None]])
    return Linear(weight, torch.cat([qkv.bias[: 2 * width], bias / factor])), Linear(
        output.weight * factor, output.bias
    )
