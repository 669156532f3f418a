"""Builds the ONNX graphs of the decoder: embeddings, layers and output matrix (docs/bundle.md, "ONNX decoder")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from valley2_edge.config import DecoderConfig
from valley2_edge.export.decoder.parts import FINAL_NORM, LM_HEAD
from valley2_edge.export.decoder_onnx.weights import StoredDecoderWeights, StoredMatrix
from valley2_edge.export.onnx.graph import IR_VERSION, OPSET, PRODUCER, Dimension
from valley2_edge.export.onnx.weights import StoredTensor
from valley2_edge.precisions import OnnxArithmetic

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
ACCURACY_LEVELS: dict[OnnxArithmetic, int] = {"int8": 4, "fp32": 1, "fp16": 0}
"""The accuracy_level of MatMulNBits: 4 rounds activations to int8, 1 computes in float32, 0 in the inputs' dtype."""
HEAD_ROWS = 16384
"""Rows of the output matrix in one product: a provider that dequantises matrices holds this many at a time,
and the core's memory plan counts as many."""


def write_embeddings_graph(path: Path, config: DecoderConfig, table: StoredTensor) -> None:
    """Writes the graph of the embedding table.

    It maps `input_ids` int64 (batch, positions) to `inputs_embeds` float32 (batch, positions, hidden).

    Args:
        path: The graph's file.
        config: The decoder's sizes.
        table: Where the embedding table lies.

    Raises:
        OSError: The file cannot be written.
    """
    graph = _Graph("embeddings", "fp32")
    ids = graph.input("input_ids", TensorProto.INT64, ("batch", "positions"))
    weight = graph.constant(table.proto("table"))
    rows = graph.node("Gather", [weight, ids], "rows")
    graph.node("Cast", [rows], "inputs_embeds", to=TensorProto.FLOAT)
    graph.output("inputs_embeds", TensorProto.FLOAT, ("batch", "positions", config.hidden_size))
    graph.save(path)


def write_head_graph(
    path: Path, config: DecoderConfig, weights: StoredDecoderWeights, arithmetic: OnnxArithmetic
) -> None:
    """Writes the graph of the output matrix.

    It maps `hidden_states` float32 (batch, positions, hidden) to `logits` float32 (batch, positions, vocabulary).

    Args:
        path: The graph's file.
        config: The decoder's sizes.
        weights: Where the weights lie.
        arithmetic: What the products are computed in.

    Raises:
        OSError: The file cannot be written.
    """
    graph = _Graph("lm_head", arithmetic)
    hidden = graph.input("hidden_states", TensorProto.FLOAT, ("batch", "positions", config.hidden_size))
    narrow = graph.narrow(hidden, "narrow")
    matrix = weights.matrices[LM_HEAD]
    blocks = []
    for first in range(0, matrix.rows, HEAD_ROWS):
        part = matrix.part(first, min(first + HEAD_ROWS, matrix.rows))
        blocks.append(graph.product(f"{LM_HEAD}.{first}", narrow, part))
    joined = blocks[0] if len(blocks) == 1 else graph.node("Concat", blocks, "joined", axis=-1)
    graph.node("Cast", [joined], "logits", to=TensorProto.FLOAT)
    graph.output("logits", TensorProto.FLOAT, ("batch", "positions", config.vocab_size))
    graph.save(path)


def write_decoder_graph(
    path: Path, config: DecoderConfig, weights: StoredDecoderWeights, arithmetic: OnnxArithmetic
) -> None:
    """Writes the graph of the layers, which maps embeddings and a KV cache to hidden states and the longer KV cache.

    Inputs: `inputs_embeds` float32 (batch, positions, hidden), `attention_mask` int64 (batch, positions with the past),
    `past_key_values.{i}.key` and `.value` (batch, kv heads, past, head size). Outputs: `hidden_states` float32 (batch,
    positions, hidden), after the last norm, and `present.{i}.key` and `.value`, which may lie in the buffers of the
    past. Keys and values are float16 in fp16 arithmetic, else float32; the residual stream is float32 in both.

    Args:
        path: The graph's file.
        config: The decoder's sizes.
        weights: Where the weights lie.
        arithmetic: What the products are computed in.

    Raises:
        OSError: The file cannot be written.
    """
    _LayersWriter(config, weights, arithmetic).write(path)


class _LayersWriter:
    def __init__(self, config: DecoderConfig, weights: StoredDecoderWeights, arithmetic: OnnxArithmetic) -> None:
        self._config = config
        self._weights = weights
        self._graph = _Graph("decoder", arithmetic)

    def write(self, path: Path) -> None:
        graph, config = self._graph, self._config
        shape = ("batch", "positions", config.hidden_size)
        residual = graph.input("inputs_embeds", TensorProto.FLOAT, shape)
        self._lengths = self._sequence_lengths()
        self._rotations = [
            graph.narrow(graph.constant(table.proto(name)), f"{name}.narrow")
            for name, table in (("cosine", self._weights.cosine), ("sine", self._weights.sine))
        ]
        normed = self._first_norm(residual)
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            attended = self._attention(name, layer, graph.narrow(normed, f"{name}.attention.input"))
            residual, normed = self._add_and_norm(f"{name}.post_attention_norm", residual, attended)
            mixed = self._mlp(name, graph.narrow(normed, f"{name}.mlp.input"))
            last = layer + 1 == config.num_hidden_layers
            residual, normed = self._add_and_norm(
                FINAL_NORM if last else f"layers.{layer + 1}.input_norm", residual, mixed
            )
        graph.node("Identity", [normed], "hidden_states")
        graph.output("hidden_states", TensorProto.FLOAT, shape)
        graph.save(path)

    def _sequence_lengths(self) -> tuple[str, str]:
        """Index of the last position of each sequence, int32 (batch,), and positions with the past, int32 ()."""
        graph = self._graph
        mask = graph.input("attention_mask", TensorProto.INT64, ("batch", "total"))
        axis = graph.constant(helper.make_tensor("mask.axis", TensorProto.INT64, [1], [1]))
        one = graph.constant(helper.make_tensor("mask.one", TensorProto.INT64, [1], [1]))
        total = graph.node("ReduceSum", [mask, axis], "mask.sum", keepdims=0)
        last = graph.node("Sub", [total, one], "mask.last")
        width = graph.node("Shape", [mask], "mask.width", start=1, end=2)
        scalar = graph.node("Squeeze", [width], "mask.scalar")
        return (
            graph.node("Cast", [last], "last_position", to=TensorProto.INT32),
            graph.node("Cast", [scalar], "total_length", to=TensorProto.INT32),
        )

    def _norm_weight(self, name: str) -> str:
        return self._graph.constant(self._weights.norms[name].proto(f"{name}.weight"))

    def _first_norm(self, value: str) -> str:
        name = "layers.0.input_norm"
        return self._graph.node(
            "SimplifiedLayerNormalization", [value, self._norm_weight(name)], name,
            axis=-1, epsilon=self._config.rms_norm_eps, stash_type=1,
        )  # fmt: skip

    def _add_and_norm(self, name: str, residual: str, added: str) -> tuple[str, str]:
        """Adds the sum of two values and the norm of the sum; returns both names."""
        graph = self._graph
        outputs = [name, "", "", f"{name}.residual"]
        inputs = [residual, graph.widen(added, f"{name}.added"), self._norm_weight(name)]
        graph.nodes(
            "SkipSimplifiedLayerNormalization", inputs, outputs, domain=CONTRIB, epsilon=self._config.rms_norm_eps
        )
        return outputs[3], outputs[0]

    def _attention(self, name: str, layer: int, value: str) -> str:
        graph, config = self._graph, self._config
        qkv = self._weights.matrices[f"{name}.attention.qkv"]
        kv_rows = config.num_key_value_heads * config.head_size
        ends = [qkv.rows - 2 * kv_rows, qkv.rows - kv_rows, qkv.rows]
        # Three products: attention takes queries, keys and values apart in every provider, but packed only in some.
        parts = [
            graph.product(f"{name}.attention.{part}", value, qkv.part(first, last))
            for part, first, last in zip(("query", "key", "value"), (0, *ends), ends, strict=False)
        ]
        shape = ("batch", config.num_key_value_heads, "past", config.head_size)
        pasts, presents = [], []
        for part in ("key", "value"):
            pasts.append(graph.input(f"past_key_values.{layer}.{part}", graph.float_kind, shape))
            presents.append(f"present.{layer}.{part}")
            graph.output(presents[-1], graph.float_kind, ("batch", config.num_key_value_heads, "total", shape[3]))
        graph.nodes(
            "GroupQueryAttention",
            [*parts, *pasts, *self._lengths, *self._rotations],
            [f"{name}.attention", *presents],
            domain=CONTRIB,
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
            do_rotary=1,
            rotary_interleaved=0,
        )
        output = self._weights.matrices[f"{name}.attention.output"]
        return graph.product(f"{name}.attention.output", f"{name}.attention", output)

    def _mlp(self, name: str, value: str) -> str:
        graph = self._graph
        both = self._weights.matrices[f"{name}.mlp.gate_up"]
        middle = both.rows // 2
        gate = graph.product(f"{name}.mlp.gate", value, both.part(0, middle))
        up = graph.product(f"{name}.mlp.up", value, both.part(middle, both.rows))
        sigmoid = graph.node("Sigmoid", [gate], f"{name}.mlp.sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{name}.mlp.silu")
        gated = graph.node("Mul", [silu, up], f"{name}.mlp.gated")
        return graph.product(f"{name}.mlp.down", gated, self._weights.matrices[f"{name}.mlp.down"])


class _Graph:
    """A graph under construction; every method that adds a value returns the value's name."""

    def __init__(self, name: str, arithmetic: OnnxArithmetic) -> None:
        self._name = name
        self._arithmetic = arithmetic
        self._half = arithmetic == "fp16"
        self.float_kind = TensorProto.FLOAT16 if self._half else TensorProto.FLOAT
        """The ONNX type of products, attention, keys and values."""
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def input(self, name: str, kind: int, shape: tuple[Dimension, ...]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: tuple[Dimension, ...]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, tensor: onnx.TensorProto) -> str:
        self._constants.append(tensor)
        return str(tensor.name)

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes(operator, inputs, [name], **attributes)
        return name

    def nodes(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Adds a node with several outputs; an empty name leaves an output out."""
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=f"{outputs[0]}.node", **attributes))

    def narrow(self, value: str, name: str) -> str:
        """A float32 value in the type of the arithmetic."""
        return self.node("Cast", [value], name, to=TensorProto.FLOAT16) if self._half else value

    def widen(self, value: str, name: str) -> str:
        """A value of the arithmetic's type in float32."""
        return self.node("Cast", [value], name, to=TensorProto.FLOAT) if self._half else value

    def product(self, name: str, value: str, matrix: StoredMatrix) -> str:
        """Value (.., columns) times matrix (rows, columns) transposed, plus its bias: (.., rows)."""
        multiply = self._multiply_integers if matrix.scales is not None else self._multiply_floats
        product = multiply(name, value, matrix)
        if matrix.bias is None:
            return product
        bias = self.narrow(self.constant(matrix.bias.proto(f"{name}.bias")), f"{name}.bias.narrow")
        return self.node("Add", [product, bias], f"{name}.biased")

    def _multiply_integers(self, name: str, value: str, matrix: StoredMatrix) -> str:
        inputs = [value, self.constant(matrix.weight.proto(f"{name}.weight"))]
        if matrix.scales is not None:
            scales = self.constant(matrix.scales.proto(f"{name}.scales"))
            # ONNX Runtime folds this constant once; the scales must have the dtype of the arithmetic.
            wide = scales if self._half else self.node("Cast", [scales], f"{name}.scales.wide", to=TensorProto.FLOAT)
            inputs.append(wide)
        if matrix.zeros is not None:
            inputs.append(self.constant(matrix.zeros.proto(f"{name}.zeros")))
        return self.node(
            "MatMulNBits",
            inputs,
            f"{name}.product",
            domain=CONTRIB,
            bits=4 if matrix.format.precision == "int4" else 8,
            block_size=matrix.format.group_size,
            K=matrix.columns,
            N=matrix.rows,
            accuracy_level=ACCURACY_LEVELS[self._arithmetic],
        )

    def _multiply_floats(self, name: str, value: str, matrix: StoredMatrix) -> str:
        weight = self.constant(matrix.weight.proto(f"{name}.weight"))
        if (matrix.weight.dtype == "float16") != self._half:
            weight = self.node("Cast", [weight], f"{name}.cast", to=self.float_kind)
        # (rows, columns), as every other kernel of a bundle has it
        turned = self.node("Transpose", [weight], f"{name}.turned", perm=[1, 0])
        return self.node("MatMul", [value, turned], f"{name}.product")

    def save(self, path: Path) -> None:
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        path.write_bytes(model.SerializeToString())
