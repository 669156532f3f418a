"""Adds the parts that the vision graphs share: linear layers, norms, and attention in blocks of queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper

from valley2_edge.export.onnx.graph import Graph, MatrixValues

Floats = NDArray[np.float32]


def multiply(graph: Graph, value: str, weight: MatrixValues, name: str, bias: Floats | None = None) -> str:
    """Adds a linear layer.

    Args:
        graph: The graph that grows.
        value: The input, (..., inputs).
        weight: (inputs, outputs): a MatMul has no transposed form in standard ONNX.
        name: Name of the result and prefix of the new values.
        bias: (outputs,), or None for a layer without a bias.

    Returns:
        The name of the result, (..., outputs).
    """
    stored = graph.matrix(f"{name}.weight", weight)
    if bias is None:
        return graph.node("MatMul", [value, stored], name)
    product = graph.node("MatMul", [value, stored], f"{name}.product")
    return graph.node("Add", [product, graph.vector(f"{name}.bias", bias)], name)


def normalize(graph: Graph, value: str, scale: Floats, shift: Floats, name: str, epsilon: float) -> str:
    """Adds a LayerNorm over the last axis.

    Args:
        graph: The graph that grows.
        value: The input, (..., channels).
        scale: (channels,).
        shift: (channels,).
        name: Name of the result and prefix of the new values.
        epsilon: Added to the variance.

    Returns:
        The name of the result, (..., channels).
    """
    parameters = [graph.vector(f"{name}.weight", scale), graph.vector(f"{name}.bias", shift)]
    return graph.node("LayerNormalization", [value, *parameters], name, axis=-1, epsilon=epsilon)


@dataclass(frozen=True)
class QueryBlocks:
    """How the tokens of one picture are cut into blocks of queries.

    Attributes:
        size: Number of queries in a block.
        count: Number of blocks; None when the number of tokens is free, in which case pictures come one at a time.
        padding: Two names: the value with the pads for (pictures, tokens, heads, head size), and the value with the
            number of tokens, at which the padding is cut off again. None means that the blocks need no padding.
    """

    size: int
    count: int | None
    padding: tuple[str, str] | None


def fixed_blocks(graph: Graph, tokens: int, largest: int) -> QueryBlocks:
    """Cuts a fixed number of tokens into the fewest equal blocks.

    Args:
        graph: The graph that grows.
        tokens: Number of tokens of a picture.
        largest: Largest number of queries in a block.
    """
    count = -(-tokens // largest)
    size = -(-tokens // count)
    missing = count * size - tokens
    if missing == 0:
        return QueryBlocks(size, count, None)
    return QueryBlocks(size, count, (graph.integers(0, 0, 0, 0, 0, missing, 0, 0), graph.integers(tokens)))


def free_blocks(graph: Graph, value: str, size: int) -> QueryBlocks:
    """Cuts a number of tokens that is known only when the graph runs into blocks.

    Args:
        graph: The graph that grows.
        value: A value whose first axis has as many entries as there are tokens.
        size: Number of queries in a block.
    """
    tokens = graph.node("Shape", [value], "blocks.tokens", start=0, end=1)
    blocks = graph.node(
        "Div", [graph.node("Add", [tokens, graph.integers(size - 1)], "blocks.raised"), graph.integers(size)],
        "blocks.count",
    )  # fmt: skip
    padded = graph.node("Mul", [blocks, graph.integers(size)], "blocks.padded")
    missing = graph.node("Sub", [padded, tokens], "blocks.missing")
    none, nothing = graph.integers(0, 0, 0, 0, 0), graph.integers(0, 0)
    padding = graph.node("Concat", [none, missing, nothing], "blocks.padding", axis=0)
    return QueryBlocks(size, None, (padding, tokens))


def attention(
    graph: Graph, name: str, query: str, key: str, value: str, heads: int, head_size: int, blocks: QueryBlocks
) -> str:
    """Adds full attention inside each picture, one block of queries after the other.

    A Scan walks over the blocks, so that the largest intermediate is (pictures, heads, block, tokens) and never
    (tokens, tokens) (Rabe and Staats 2021, "Self-attention does not need O(n^2) memory", section 2, without the split
    of the keys).

    Args:
        graph: The graph that grows.
        name: Prefix of the new values.
        query: The queries, (pictures, tokens, heads, head size) float32.
        key: The keys, of the same shape.
        value: The values, of the same shape.
        heads: Number of heads.
        head_size: Number of channels of a head.
        blocks: How the tokens are cut into blocks of queries.

    Returns:
        The name of the result, (pictures, tokens, heads * head size).
    """
    query = graph.node("Mul", [query, graph.scalar(head_size**-0.5)], name + ".scaled_query")
    if blocks.padding is not None:
        query = graph.node("Pad", [query, blocks.padding[0]], name + ".padded_query")
    # (pictures, blocks, block, heads, head size) -> (blocks, pictures, heads, block, head size)
    pictures, count = (1, -1) if blocks.count is None else (-1, blocks.count)
    shape = graph.integers(pictures, count, blocks.size, heads, head_size)
    query = graph.node("Reshape", [query, shape], name + ".cut_query")
    query = graph.node("Transpose", [query], name + ".query_blocks", perm=[1, 0, 3, 2, 4])
    # (pictures, heads, head size, tokens)
    keys = graph.node("Transpose", [key], name + ".keys", perm=[0, 2, 3, 1])
    # (pictures, heads, tokens, head size)
    values = graph.node("Transpose", [value], name + ".values", perm=[0, 2, 1, 3])
    body = _attention_body(name, keys, values, heads, blocks.size, head_size)
    mixed = graph.scan(graph.scalar(0.0), query, name + ".mixed_blocks", body)
    # (blocks, pictures, heads, block, head size) -> (pictures, blocks, block, heads, head size)
    mixed = graph.node("Transpose", [mixed], name + ".mixed_queries", perm=[1, 0, 3, 2, 4])
    tokens = -1 if blocks.count is None else blocks.count * blocks.size
    shape = graph.integers(pictures, tokens, heads * head_size)
    mixed = graph.node("Reshape", [mixed, shape], name + ".mixed_tokens")
    if blocks.padding is None:
        return mixed
    ends = [graph.integers(0), blocks.padding[1], graph.integers(1)]
    return graph.node("Slice", [mixed, *ends], name + ".mixed_without_padding")


def _attention_body(name: str, keys: str, values: str, heads: int, block: int, head_size: int) -> GraphProto:
    """The Scan's body; `keys` and `values` are captured from outside.

    TensorRT's parser refuses a Scan that carries nothing from one step to the next, so a number is carried.
    """
    carried, kept = name + ".carried", name + ".kept"
    query, mixed = name + ".query_block", name + ".mixed_block"
    scores, probabilities = name + ".scores", name + ".probabilities"
    nodes = [
        helper.make_node("Identity", [carried], [kept], name=kept),
        helper.make_node("MatMul", [query, keys], [scores], name=scores),
        helper.make_node("Softmax", [scores], [probabilities], name=probabilities, axis=-1),
        helper.make_node("MatMul", [probabilities, values], [mixed], name=mixed),
    ]
    shape = (None, heads, block, head_size)
    inputs, outputs = (
        [
            helper.make_tensor_value_info(number, TensorProto.FLOAT, ()),
            helper.make_tensor_value_info(part, TensorProto.FLOAT, shape),
        ]
        for number, part in ((carried, query), (kept, mixed))
    )
    return helper.make_graph(nodes, name + ".body", inputs, outputs)
