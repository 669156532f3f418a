"""Writes the three kinds of projector as ONNX graphs (docs/valley2.md, "Projector")."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from valley2_edge.config import ProjectorConfig, SiglipConfig
from valley2_edge.export.checkpoint.tensor_names import CONV_SIDE, PROJECTOR_NORM_EPSILON, PROJECTOR_PREFIX
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.onnx.blocks import layer_norm, linear
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.precisions import VisionPrecision


def write_projector(
    weights: Weights, config: ProjectorConfig, siglip: SiglipConfig, path: Path, precision: VisionPrecision
) -> None:
    """Writes the graph.

    It maps `features` (tiles, patches, channels) float32 to `tokens` (tiles, side * side, hidden) float32.

    Args:
        weights: Reads the checkpoint.
        config: The projector's sizes.
        siglip: The sizes of the tower that makes the features.
        path: The graph's file.
        precision: Precision of the matrices.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: A tensor is not finite or does not fit the precision.
        OSError: The files cannot be written.
    """
    side = siglip.patches_per_side
    with Graph("projector", path, precision) as graph:
        features = graph.input("features", TensorProto.FLOAT, ("tiles", side**2, config.input_size))
        if config.type == "ovis_conv_adapter":
            tokens = _ovis(graph, weights, features, side, config)
        elif config.type == "conv_adapter":
            # The convolution comes last here; in ovis_conv_adapter it comes first.
            tokens = _convolution(graph, weights, _mlp(graph, weights, features), side, config.output_size)
        else:
            tokens = _mlp(graph, weights, _pixel_shuffle(graph, features, side, config))
        graph.output(tokens, "tokens", ("tiles", config.tokens_per_side**2, config.output_size))
        graph.save()


def _ovis(graph: Graph, weights: Weights, features: str, side: int, config: ProjectorConfig) -> str:
    """(tiles, patches, channels) -> (tiles, tokens, hidden): a soft choice among the visual vocabulary."""
    value = _convolution(graph, weights, features, side, config.input_size)
    # (tiles, tokens, vocabulary)
    scores = linear(graph, weights, value, PROJECTOR_PREFIX + "mlp.0", "vocabulary", bias=False)
    scores = layer_norm(graph, weights, scores, PROJECTOR_PREFIX + "mlp.1", "vocabulary.norm", PROJECTOR_NORM_EPSILON)
    probabilities = graph.node("Softmax", [scores], "vocabulary.probabilities", axis=-1)
    embedding = graph.matrix("embedding", weights.read(PROJECTOR_PREFIX + "embedding.weight"))
    return graph.node("MatMul", [probabilities, embedding], "mixture")


def _convolution(graph: Graph, weights: Weights, value: str, side: int, channels: int) -> str:
    """(tiles, side * side, channels) -> (tiles, tokens, channels): 3x3, stride 2, padding 1."""
    columns = graph.node("Transpose", [value], "conv.columns", perm=[0, 2, 1])
    patch_map = graph.node("Reshape", [columns, graph.integers(-1, channels, side, side)], "conv.map")
    kernel = graph.matrix("conv.weight", weights.read(PROJECTOR_PREFIX + "conv.weight"))
    bias = graph.vector("conv.bias", weights.read(PROJECTOR_PREFIX + "conv.bias"))
    reduced = graph.node(
        "Conv", [patch_map, kernel, bias], "conv",
        kernel_shape=[CONV_SIDE, CONV_SIDE], strides=[2, 2], pads=[1, 1, 1, 1],
    )  # fmt: skip
    tokens = ((side + 1) // 2) ** 2
    columns = graph.node("Reshape", [reduced, graph.integers(-1, channels, tokens)], "conv.reduced_columns")
    return graph.node("Transpose", [columns], "conv.tokens", perm=[0, 2, 1])


def _mlp(graph: Graph, weights: Weights, value: str) -> str:
    """(..., inputs) -> (..., hidden), with the exact GELU."""
    wide = linear(graph, weights, value, PROJECTOR_PREFIX + "mlp.0", "mlp.0")
    wide = graph.node("Gelu", [wide], "mlp.gelu", approximate="none")
    return linear(graph, weights, wide, PROJECTOR_PREFIX + "mlp.2", "mlp.2")


def _pixel_shuffle(graph: Graph, features: str, side: int, config: ProjectorConfig) -> str:
    """(tiles, side * side, channels) -> (tiles, tokens, ratio * ratio * channels), row-major neighbours."""
    ratio, tokens = config.pixelshuffle_downsample_ratio, config.tokens_per_side
    channels = config.input_size
    cut = graph.node("Reshape", [features, graph.integers(-1, tokens, ratio, tokens, ratio, channels)], "shuffle.cut")
    joined = graph.node("Transpose", [cut], "shuffle.joined", perm=[0, 1, 3, 2, 4, 5])
    return graph.node("Reshape", [joined, graph.integers(-1, tokens**2, ratio**2 * channels)], "shuffle")
