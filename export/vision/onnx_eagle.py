"""Writes the Eagle tower and its merger as an ONNX graph (docs/valley2.md, "Eagle tower")."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from valley2_edge.config import EagleConfig
from valley2_edge.export.checkpoint.tensor_names import PICTURE_CHANNELS
from valley2_edge.export.onnx.blocks import attention, free_blocks
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.export.vision.onnx_layers import layer, linear, norm
from valley2_edge.export.vision.tower_reader import TowerReader

BLOCK = 128
"""Number of queries in a block of attention; the memory that a graph is said to take has the same number."""
QUICK_GELU_SLOPE = 1.702


def write_eagle(tower: TowerReader, config: EagleConfig, path: Path) -> None:
    """Writes the graph, which encodes one picture.

    It maps `patches` (patches, 588) float32, in [channel, y, x] order inside a patch and block order among patches, and
    `positions` (patches, 2) int64, the row and column of each patch, to `tokens` (patches / 4, hidden) float32.

    Args:
        tower: The native tower.
        config: The tower's sizes.
        path: The graph's file.

    Raises:
        BundleError: The tower lacks a tensor.
        OSError: The files cannot be written.
    """
    patch_size, width = PICTURE_CHANNELS * config.patch_size**2, config.embed_dim
    heads, head_size = config.num_heads, width // config.num_heads
    with Graph("eagle", path) as graph:
        patches = graph.input("patches", TensorProto.FLOAT, ("patches", patch_size))
        positions = graph.input("positions", TensorProto.INT64, ("patches", 2))
        blocks = free_blocks(graph, positions, BLOCK)
        rotation = _rotation(graph, positions, config)

        def attend(parts: list[str], name: str) -> str:
            shape, one_picture = graph.integers(-1, heads, head_size), graph.integers(0)
            query, key, values = (graph.node("Reshape", [part, shape], f"{part}.heads") for part in parts)
            query, key = _rotate(graph, query, rotation), _rotate(graph, key, rotation)
            # (1, patches, heads, head size)
            query, key, values = (
                graph.node("Unsqueeze", [part, one_picture], f"{part}.picture") for part in (query, key, values)
            )
            mixed = attention(graph, name, query, key, values, heads, head_size, blocks)
            return graph.node("Squeeze", [mixed, one_picture], f"{name}.mixed")

        def activate(wide: str, name: str) -> str:
            scaled = graph.node("Mul", [wide, graph.scalar(QUICK_GELU_SLOPE)], f"{name}.scaled")
            gate = graph.node("Sigmoid", [scaled], f"{name}.gate")
            return graph.node("Mul", [wide, gate], f"{name}.quick_gelu")

        # The temporal slices of a picture are equal. Each has weights of its own: their sum has more digits than bf16.
        slices = config.temporal_patch_size
        value = graph.node("Concat", [patches] * slices, "patches.slices", axis=1)
        value = linear(graph, tower, value, "patch_embedding", width, slices * patch_size, bias=False)
        sizes, epsilon = (width, config.mlp_ratio * width), config.layer_norm_eps
        for index in range(config.depth):
            value = layer(graph, tower, value, index, sizes, epsilon, attend, activate)
        graph.output(_merger(graph, tower, value, config), "tokens", ("tokens", config.hidden_size))
        graph.save()


def _rotation(graph: Graph, positions: str, config: EagleConfig) -> tuple[str, str]:
    """Cosines and sines (patches, 1, head size / 2): the row's angles, then the column's, in float32."""
    half = config.embed_dim // config.num_heads // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    frequencies = np.float32(1) / np.float32(config.rope_theta) ** exponents
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


def _merger(graph: Graph, tower: TowerReader, value: str, config: EagleConfig) -> str:
    """(patches, embed) -> (patches / 4, hidden): four consecutive patches are one 2x2 block of the picture."""
    merged = config.embed_dim * config.spatial_merge_size**2
    value = norm(graph, tower, value, "merger.norm", config.embed_dim, config.layer_norm_eps)
    value = graph.node("Reshape", [value, graph.integers(-1, merged)], "merger.joined")
    value = linear(graph, tower, value, "merger.inner", merged, merged)
    value = graph.node("Gelu", [value], "merger.gelu", approximate="none")
    return linear(graph, tower, value, "merger.outer", config.hidden_size, merged)
