"""Writes the Eagle tower and its merger as an ONNX graph (docs/valley2.md, "Eagle tower")."""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto

from valley2_edge.config import EagleConfig
from valley2_edge.export.checkpoint.tensor_names import EAGLE_PREFIX, PICTURE_CHANNELS
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.onnx.blocks import QueryBlocks, attention, free_blocks, layer_norm, linear
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.precisions import VisionPrecision

BLOCK = 128
"""Number of queries in a block of attention; the core's memory plan has the same number."""
QUICK_GELU_SLOPE = 1.702


def write_eagle(weights: Weights, config: EagleConfig, path: Path, precision: VisionPrecision) -> None:
    """Writes the graph, which encodes one picture.

    It maps `patches` (patches, 588) float32, in [channel, y, x] order inside a patch and block order among patches, and
    `positions` (patches, 2) int64, the row and column of each patch, to `tokens` (patches / 4, hidden) float32.

    Args:
        weights: Reads the checkpoint.
        config: The tower's sizes.
        path: The graph's file.
        precision: Precision of the matrices.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: A tensor is not finite or does not fit the precision.
        OSError: The files cannot be written.
    """
    patch_size = PICTURE_CHANNELS * config.patch_size**2
    with Graph("eagle", path, precision) as graph:
        patches = graph.input("patches", TensorProto.FLOAT, ("patches", patch_size))
        positions = graph.input("positions", TensorProto.INT64, ("patches", 2))
        blocks = free_blocks(graph, positions, BLOCK)
        rotation = _rotation(graph, positions, config)
        # (embed, 3, temporal, y, x). The temporal slices of a picture are equal, so their weights are summed.
        kernel = weights.read(EAGLE_PREFIX + "patch_embed.proj.weight").float().sum(dim=2)
        matrix = graph.matrix("patch_embed.weight", kernel.reshape(config.embed_dim, patch_size).t())
        value = graph.node("MatMul", [patches, matrix], "patch_embed")
        for index in range(config.depth):
            value = _block(graph, weights, value, index, config, rotation, blocks)
        graph.output(_merger(graph, weights, value, config), "tokens", ("tokens", config.hidden_size))
        graph.save()


def _rotation(graph: Graph, positions: str, config: EagleConfig) -> tuple[str, str]:
    """Cosines and sines (patches, 1, head size / 2): the row's angles, then the column's, in float32."""
    half = config.embed_dim // config.num_heads // 2
    frequencies = 1.0 / config.rope_theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    steps = graph.node("Cast", [positions], "rotation.positions", to=TensorProto.FLOAT)
    steps = graph.node("Unsqueeze", [steps, graph.integers(2)], "rotation.steps")  # (patches, 2, 1)
    angles = graph.node("Mul", [steps, graph.vector("rotation.frequencies", frequencies)], "rotation.axis_angles")
    angles = graph.node("Reshape", [angles, graph.integers(-1, 1, half)], "rotation.angles")
    return graph.node("Cos", [angles], "rotation.cosines"), graph.node("Sin", [angles], "rotation.sines")


def _rotate(graph: Graph, value: str, rotation: tuple[str, str]) -> str:
    """(patches, heads, head size), channel i paired with channel i + head size / 2."""
    cosines, sines = rotation
    first, second = graph.split(value, value + ".halves", ["first", "second"], axis=-1)
    products = {
        (part, factor): graph.node("Mul", [part, factor], f"{part}.times_{factor.rpartition('.')[2]}")
        for part in (first, second)
        for factor in rotation
    }
    left = graph.node("Sub", [products[first, cosines], products[second, sines]], value + ".rotated_first")
    right = graph.node("Add", [products[second, cosines], products[first, sines]], value + ".rotated_second")
    return graph.node("Concat", [left, right], value + ".rotated", axis=-1)


def _block(
    graph: Graph,
    weights: Weights,
    value: str,
    index: int,
    config: EagleConfig,
    rotation: tuple[str, str],
    blocks: QueryBlocks,
) -> str:
    """(patches, embed) -> (patches, embed)."""
    source, name = f"{EAGLE_PREFIX}blocks.{index}.", f"blocks.{index}."
    norm = layer_norm(graph, weights, value, source + "norm1", name + "norm1", config.layer_norm_eps)
    mixed = _attention(graph, weights, norm, source + "attn.", name + "attention", config, rotation, blocks)
    value = graph.node("Add", [value, mixed], name + "after_attention")
    norm = layer_norm(graph, weights, value, source + "norm2", name + "norm2", config.layer_norm_eps)
    wide = linear(graph, weights, norm, source + "mlp.fc1", name + "mlp.fc1")
    scaled = graph.node("Mul", [wide, graph.scalar(QUICK_GELU_SLOPE)], name + "mlp.scaled")
    gate = graph.node("Sigmoid", [scaled], name + "mlp.gate")
    wide = graph.node("Mul", [wide, gate], name + "mlp.quick_gelu")
    narrow = linear(graph, weights, wide, source + "mlp.fc2", name + "mlp.fc2")
    return graph.node("Add", [value, narrow], name + "after_mlp")


def _attention(
    graph: Graph,
    weights: Weights,
    value: str,
    source: str,
    name: str,
    config: EagleConfig,
    rotation: tuple[str, str],
    blocks: QueryBlocks,
) -> str:
    heads, head_size = config.num_heads, config.embed_dim // config.num_heads
    joined = linear(graph, weights, value, source + "qkv", name + ".qkv")
    shape, one_picture = graph.integers(-1, heads, head_size), graph.integers(0)
    query, key, values = (
        graph.node("Reshape", [part, shape], part + ".heads")
        for part in graph.split(joined, name, ["query", "key", "value"], axis=-1)
    )
    query, key = _rotate(graph, query, rotation), _rotate(graph, key, rotation)
    # (1, patches, heads, head size)
    query, key, values = (
        graph.node("Unsqueeze", [part, one_picture], part + ".picture") for part in (query, key, values)
    )
    mixed = attention(graph, name, query, key, values, heads, head_size, blocks)
    mixed = graph.node("Squeeze", [mixed, one_picture], name + ".mixed")
    return linear(graph, weights, mixed, source + "proj", name + ".output")


def _merger(graph: Graph, weights: Weights, value: str, config: EagleConfig) -> str:
    """(patches, embed) -> (patches / 4, hidden): four consecutive patches are one 2x2 block of the picture."""
    source, merged = EAGLE_PREFIX + "merger.", config.embed_dim * config.spatial_merge_size**2
    value = layer_norm(graph, weights, value, source + "ln_q", "merger.norm", config.layer_norm_eps)
    value = graph.node("Reshape", [value, graph.integers(-1, merged)], "merger.joined")
    value = linear(graph, weights, value, source + "mlp.0", "merger.mlp.0")
    value = graph.node("Gelu", [value], "merger.mlp.gelu", approximate="none")
    return linear(graph, weights, value, source + "mlp.2", "merger.mlp.2")
