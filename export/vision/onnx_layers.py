"""Adds what the graphs of SigLIP and Eagle share: linear layers, norms and transformer layers of a native tower."""

from __future__ import annotations

from collections.abc import Callable

from valley2_edge.export.onnx.blocks import multiply, normalize
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.export.vision.tower_reader import TowerReader


def linear(
    graph: Graph, tower: TowerReader, value: str, name: str, outputs: int, columns: int, *, bias: bool = True
) -> str:
    """Adds a linear layer with a matrix of the tower.

    Args:
        graph: The graph that grows.
        tower: Has the matrix, and `name.bias`.
        value: The input, (..., columns).
        name: Name of the matrix, of the result, and prefix of the new values.
        outputs: Number of outputs.
        columns: Number of inputs.
        bias: Whether the layer has a bias.

    Returns:
        The name of the result, (..., outputs).
    """
    shift = tower.vector(f"{name}.bias", outputs) if bias else None
    return multiply(graph, value, tower.transposed(name, outputs, columns), name, shift)


def norm(graph: Graph, tower: TowerReader, value: str, name: str, width: int, epsilon: float) -> str:
    """Adds a LayerNorm with the tower's numbers.

    Args:
        graph: The graph that grows.
        tower: Has `name.weight` and `name.bias`.
        value: The input, (..., width).
        name: Name of the norm, of the result, and prefix of the new values.
        width: Number of channels.
        epsilon: Added to the variance.

    Returns:
        The name of the result, (..., width).
    """
    scale, shift = tower.vector(f"{name}.weight", width), tower.vector(f"{name}.bias", width)
    return normalize(graph, value, scale, shift, name, epsilon)


def layer(
    graph: Graph,
    tower: TowerReader,
    value: str,
    index: int,
    sizes: tuple[int, int],
    epsilon: float,
    attend: Callable[[list[str], str], str],
    activate: Callable[[str, str], str],
) -> str:
    """Adds a transformer layer: attention and an MLP, each behind a norm and beside the value.

    Args:
        graph: The graph that grows.
        tower: Has the layer's matrices and norms.
        value: The input, (..., width).
        index: Number of the layer.
        sizes: The width of a token, and that inside the MLP.
        epsilon: Added to the variance by the norms.
        attend: Adds attention, given queries, keys and values, (..., width) each, and a prefix of names.
        activate: Adds the MLP's activation, given its input and a prefix of names.

    Returns:
        The name of the result, (..., width).
    """
    name, (width, middle) = f"layers.{index}.", sizes
    joined = norm(graph, tower, value, name + "norm1", width, epsilon)
    joined = linear(graph, tower, joined, name + "qkv", 3 * width, width)
    mixed = attend(graph.split(joined, name + "attention", ["query", "key", "value"], axis=-1), name + "attention")
    mixed = linear(graph, tower, mixed, name + "output", width, width)
    value = graph.node("Add", [value, mixed], name + "after_attention")
    wide = norm(graph, tower, value, name + "norm2", width, epsilon)
    wide = linear(graph, tower, wide, name + "up", middle, width)
    narrow = linear(graph, tower, activate(wide, name + "mlp"), name + "down", width, middle)
    return graph.node("Add", [value, narrow], name + "after_mlp")
