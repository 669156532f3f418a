"""Writes the SigLIP tower as an ONNX graph (docs/valley2.md, "SigLIP")."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from valley2_edge.config import SiglipConfig
from valley2_edge.export.checkpoint.tensor_names import PICTURE_CHANNELS
from valley2_edge.export.onnx.blocks import attention, fixed_blocks
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.export.vision.onnx_layers import layer, norm
from valley2_edge.export.vision.tower_reader import TowerReader

LARGEST_BLOCK = 243
"""Largest number of queries in a block of attention: 729 patches are three blocks. The memory that a graph
is said to take has the same number (runtime/onnx/vision_cost.py)."""


def write_siglip(tower: TowerReader, config: SiglipConfig, path: Path) -> None:
    """Writes the graph.

    It maps `tiles` (tiles, 3, image, image) float32 to `features` (tiles, patches, hidden) float32. The output is the
    post layer norm of the last layer. There is no class token and no pooling head.

    Args:
        tower: The native tower.
        config: The tower's sizes.
        path: The graph's file.

    Raises:
        BundleError: The tower lacks a tensor.
        OSError: The files cannot be written.
    """
    tokens, width = config.patches_per_side**2, config.hidden_size
    heads, head_size = config.num_attention_heads, width // config.num_attention_heads
    with Graph("siglip", path) as graph:
        picture = ("tiles", PICTURE_CHANNELS, config.image_size, config.image_size)
        value = _embeddings(graph, tower, graph.input("tiles", TensorProto.FLOAT, picture), config)
        blocks = fixed_blocks(graph, tokens, LARGEST_BLOCK)

        def attend(parts: list[str], name: str) -> str:
            shape = graph.integers(-1, tokens, heads, head_size)
            query, key, values = (graph.node("Reshape", [part, shape], f"{part}.heads") for part in parts)
            return attention(graph, name, query, key, values, heads, head_size, blocks)

        def activate(wide: str, name: str) -> str:
            return graph.node("Gelu", [wide], f"{name}.gelu", approximate="tanh")

        sizes, epsilon = (width, config.intermediate_size), config.layer_norm_eps
        for index in range(config.num_hidden_layers):
            value = layer(graph, tower, value, index, sizes, epsilon, attend, activate)
        graph.output(norm(graph, tower, value, "post_norm", width, epsilon), "features", ("tiles", tokens, width))
        graph.save()


def _embeddings(graph: Graph, tower: TowerReader, tiles: str, config: SiglipConfig) -> str:
    """(tiles, 3, image, image) -> (tiles, patches, hidden)."""
    name, width, patch, tokens = "patch_embedding", config.hidden_size, config.patch_size, config.patches_per_side**2
    kernel = tower.matrix(name, width, PICTURE_CHANNELS * patch**2).reshape(width, PICTURE_CHANNELS, patch, patch)
    weights = [
        graph.matrix(f"{name}.weight", kernel),
        graph.vector(f"{name}.bias", tower.vector(f"{name}.bias", width)),
    ]
    # (tiles, hidden, side, side); the last 6 of 384 pixels are never used
    patches = graph.node("Conv", [tiles, *weights], name, kernel_shape=[patch, patch], strides=[patch, patch])
    columns = graph.node("Reshape", [patches, graph.integers(-1, width, tokens)], f"{name}.columns")
    rows = graph.node("Transpose", [columns], f"{name}.rows", perm=[0, 2, 1])
    positions = graph.vector("position_embedding", tower.vector("position_embedding", tokens, width))
    return graph.node("Add", [rows, positions], "embeddings")
