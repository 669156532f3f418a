"""Writes the three kinds of projector as ONNX graphs (docs/valley2.md, "Projector")."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from valley2_edge.config import ProjectorConfig
from valley2_edge.export.checkpoint.tensor_names import CONV_SIDE, PROJECTOR_NORM_EPSILON
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.export.vision.onnx_layers import linear, norm
from valley2_edge.export.vision.tower_reader import TowerReader


def write_projector(tower: TowerReader, config: ProjectorConfig, patches_per_side: int, path: Path) -> None:
    """Writes the graph.

    It maps `features` (tiles, patches, channels) float32 to `tokens` (tiles, side * side, hidden) float32.

    Args:
        tower: The native projector.
        config: The projector's sizes.
        patches_per_side: Rows and columns of the features of a tile.
        path: The graph's file.

    Raises:
        BundleError: The tower lacks a tensor.
        OSError: The files cannot be written.
    """
    side, inputs, outputs = patches_per_side, config.input_size, config.output_size
    with Graph("projector", path) as graph:
        features = graph.input("features", TensorProto.FLOAT, ("tiles", side**2, inputs))
        if config.type == "ovis_conv_adapter":
            tokens = _choose(graph, tower, _convolution(graph, tower, features, side, inputs), config)
        elif config.type == "conv_adapter":
            # The convolution comes last here; in ovis_conv_adapter it comes first.
            tokens = _convolution(graph, tower, _mlp(graph, tower, features, inputs, config), side, outputs)
        else:
            shuffled = _pixel_shuffle(graph, features, side, config)
            tokens = _mlp(graph, tower, shuffled, inputs * config.pixelshuffle_downsample_ratio**2, config)
        graph.output(tokens, "tokens", ("tiles", config.tokens_per_side**2, outputs))
        graph.save()


def _choose(graph: Graph, tower: TowerReader, value: str, config: ProjectorConfig) -> str:
    """(tiles, tokens, channels) -> (tiles, tokens, hidden): a choice among the visual vocabulary."""
    entries = config.mlp_hidden_dim
    # (tiles, tokens, vocabulary)
    scores = linear(graph, tower, value, "vocabulary", entries, config.input_size, bias=False)
    scores = norm(graph, tower, scores, "vocabulary_norm", entries, PROJECTOR_NORM_EPSILON)
    if config.tokenize_function == "st_argmax":
        # (entries, hidden)
        embeddings = graph.matrix("mixture.weight", tower.transposed("mixture", config.output_size, entries))
        chosen = graph.node("ArgMax", [scores], "vocabulary_choice", axis=-1, keepdims=0)  # the first of several
        return graph.node("Gather", [embeddings, chosen], "mixture", axis=0)
    probabilities = graph.node("Softmax", [scores], "vocabulary_probabilities", axis=-1)
    return linear(graph, tower, probabilities, "mixture", config.output_size, entries, bias=False)


def _convolution(graph: Graph, tower: TowerReader, value: str, side: int, channels: int) -> str:
    """(tiles, side * side, channels) -> (tiles, tokens, channels): 3x3, stride 2, padding 1."""
    name, tokens = "convolution", ((side + 1) // 2) ** 2
    columns = graph.node("Transpose", [value], f"{name}.columns", perm=[0, 2, 1])
    patch_map = graph.node("Reshape", [columns, graph.integers(-1, channels, side, side)], f"{name}.map")
    # The tower has (outputs, y, x, inputs), ONNX wants (outputs, inputs, y, x).
    kernel = tower.matrix(name, channels, CONV_SIDE**2 * channels)
    kernel = kernel.reshape(channels, CONV_SIDE, CONV_SIDE, channels).transpose(0, 3, 1, 2)
    bias = graph.vector(f"{name}.bias", tower.vector(f"{name}.bias", channels))
    reduced = graph.node(
        "Conv", [patch_map, graph.matrix(f"{name}.weight", kernel), bias], name,
        kernel_shape=[CONV_SIDE, CONV_SIDE], strides=[2, 2], pads=[1, 1, 1, 1],
    )  # fmt: skip
    columns = graph.node("Reshape", [reduced, graph.integers(-1, channels, tokens)], f"{name}.reduced_columns")
    return graph.node("Transpose", [columns], f"{name}.tokens", perm=[0, 2, 1])


def _mlp(graph: Graph, tower: TowerReader, value: str, inputs: int, config: ProjectorConfig) -> str:
    """(..., inputs) -> (..., hidden), with the exact GELU."""
    wide = linear(graph, tower, value, "inner", config.mlp_hidden_dim, inputs)
    wide = graph.node("Gelu", [wide], "gelu", approximate="none")
    return linear(graph, tower, wide, "outer", config.output_size, config.mlp_hidden_dim)


def _pixel_shuffle(graph: Graph, features: str, side: int, config: ProjectorConfig) -> str:
    """(tiles, side * side, channels) -> (tiles, tokens, ratio * ratio * channels), row-major neighbours."""
    ratio, tokens = config.pixelshuffle_downsample_ratio, config.tokens_per_side
    channels = config.input_size
    cut = graph.node("Reshape", [features, graph.integers(-1, tokens, ratio, tokens, ratio, channels)], "shuffle.cut")
    joined = graph.node("Transpose", [cut], "shuffle.joined", perm=[0, 1, 3, 2, 4, 5])
    return graph.node("Reshape", [joined, graph.integers(-1, tokens**2, ratio**2 * channels)], "shuffle")
