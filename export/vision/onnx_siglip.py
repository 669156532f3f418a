"""Writes the SigLIP tower as an ONNX graph (docs/valley2.md, "SigLIP")."""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto

from valley2_edge.config import SiglipConfig
from valley2_edge.export.checkpoint.tensor_names import PICTURE_CHANNELS, SIGLIP_PREFIX
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.onnx.blocks import QueryBlocks, attention, fixed_blocks, layer_norm, linear, linear_of
from valley2_edge.export.onnx.graph import Graph
from valley2_edge.precisions import VisionPrecision

LARGEST_BLOCK = 243
"""Largest number of queries in a block of attention: 729 patches are three blocks. The core's memory plan has
the same number."""


def write_siglip(weights: Weights, config: SiglipConfig, path: Path, precision: VisionPrecision) -> None:
    """Writes the graph.

    It maps `tiles` (tiles, 3, image, image) float32 to `features` (tiles, patches, hidden) float32. The output is the
    post layer norm of the last layer. There is no class token and no pooling head.

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
    tokens, size = config.patches_per_side**2, config.hidden_size
    with Graph("siglip", path, precision) as graph:
        picture = ("tiles", PICTURE_CHANNELS, config.image_size, config.image_size)
        value = _embeddings(graph, weights, graph.input("tiles", TensorProto.FLOAT, picture), config)
        blocks = fixed_blocks(graph, tokens, LARGEST_BLOCK)
        for index in range(config.num_hidden_layers):
            value = _layer(graph, weights, value, index, config, blocks)
        norm = layer_norm(
            graph, weights, value, SIGLIP_PREFIX + "post_layernorm", "post_layernorm", config.layer_norm_eps
        )
        graph.output(norm, "features", ("tiles", tokens, size))
        graph.save()


def _embeddings(graph: Graph, weights: Weights, tiles: str, config: SiglipConfig) -> str:
    """(tiles, 3, image, image) -> (tiles, patches, hidden)."""
    source = SIGLIP_PREFIX + "embeddings."
    patch = config.patch_size
    kernel = graph.matrix("patch_embedding.weight", weights.read(source + "patch_embedding.weight"))
    bias = graph.vector("patch_embedding.bias", weights.read(source + "patch_embedding.bias"))
    # (tiles, hidden, side, side); the last 6 of 384 pixels are never used
    patches = graph.node(
        "Conv", [tiles, kernel, bias], "patch_embedding", kernel_shape=[patch, patch], strides=[patch, patch]
    )
    shape = graph.integers(-1, config.hidden_size, config.patches_per_side**2)
    columns = graph.node("Reshape", [patches, shape], "patch_embedding.columns")
    rows = graph.node("Transpose", [columns], "patch_embedding.rows", perm=[0, 2, 1])
    positions = graph.matrix("position_embedding", weights.read(source + "position_embedding.weight"))
    return graph.node("Add", [rows, positions], "embeddings")


def _layer(graph: Graph, weights: Weights, value: str, index: int, config: SiglipConfig, blocks: QueryBlocks) -> str:
    """(tiles, patches, hidden) -> (tiles, patches, hidden)."""
    source, name = f"{SIGLIP_PREFIX}encoder.layers.{index}.", f"layers.{index}."
    epsilon = config.layer_norm_eps
    norm = layer_norm(graph, weights, value, source + "layer_norm1", name + "norm1", epsilon)
    mixed = _attention(graph, weights, norm, source + "self_attn.", name + "attention", config, blocks)
    value = graph.node("Add", [value, mixed], name + "after_attention")
    norm = layer_norm(graph, weights, value, source + "layer_norm2", name + "norm2", epsilon)
    wide = linear(graph, weights, norm, source + "mlp.fc1", name + "mlp.fc1")
    wide = graph.node("Gelu", [wide], name + "mlp.gelu", approximate="tanh")
    narrow = linear(graph, weights, wide, source + "mlp.fc2", name + "mlp.fc2")
    return graph.node("Add", [value, narrow], name + "after_mlp")


def _attention(
    graph: Graph, weights: Weights, value: str, source: str, name: str, config: SiglipConfig, blocks: QueryBlocks
) -> str:
    heads, head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    parts = ("q_proj", "k_proj", "v_proj")
    # One product for queries, keys and values: (3 * hidden, hidden)
    weight = torch.cat([weights.read(f"{source}{part}.weight") for part in parts])
    bias = torch.cat([weights.read(f"{source}{part}.bias") for part in parts])
    joined = linear_of(graph, value, name + ".qkv", weight, bias)
    shape = graph.integers(-1, config.patches_per_side**2, heads, head_size)
    query, key, values = (
        graph.node("Reshape", [part, shape], part + ".heads")
        for part in graph.split(joined, name, ["query", "key", "value"], axis=-1)
    )
    mixed = attention(graph, name, query, key, values, heads, head_size, blocks)
    return linear(graph, weights, mixed, source + "out_proj", name + ".output")
