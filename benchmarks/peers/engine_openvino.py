"""OpenVINO: int4 in symmetric groups of 128 and an int8 output matrix, with the state of keys and values inside.

The graph is the one that a model exported for OpenVINO has, in the operations that its CPU plugin fuses: weights that
are widened where they are multiplied, one attention a layer with its cache, the output matrix for the last position
alone. The plugin chooses how it computes; the second engine asks for float32 with activations in int8 in groups of 128.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from engine import GROUP_SIZE, MATRICES, About, Shape, random_bytes, random_rows
from openvino import opset13 as ops

EPSILON = 1e-6
PRODUCTS_PER_LAYER = 7
ROTATION_BASE = 1e6
ATTENTION_INPUTS = 4
"""Queries, keys, values and mask; an attention that is fused with its cache has more."""
DYNAMIC_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP_SIZE)}
END = np.iinfo(np.int64).max


class OpenVinoEngine:
    """One compiled model and its only request."""

    def __init__(self, shape: Shape, threads: int, most: int, settings: dict[str, str]) -> None:
        settings = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY", **settings}
        self._graph = GraphBuilder(shape)  # its constants own the weights, which are packed at the first run
        compiled = openvino.Core().compile_model(self._graph.build(), "CPU", settings)
        _check_fusions(compiled, shape)
        self._request = compiled.create_infer_request()
        self._rows = random_rows(shape, most)[None]
        self._past = 0
        layer_bytes = sum(_int4_bytes(*shape.matrix(name)) for name in MATRICES)
        names = ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION")
        chosen = ", ".join(f"{name} {_plain(compiled.get_property(name))}" for name in names)
        self.about = About(
            f"openvino {openvino.__version__.split('-')[0]}",
            f"int4 g128 symmetric, lm_head int8; {chosen}",
            layer_bytes,
            shape.vocabulary * shape.hidden,
            MATRICES,
        )

    def prefill(self, positions: int) -> float:
        """See `Engine`."""
        self._request.reset_state()
        self._past = 0
        return self._run(self._rows[:, :positions])

    def decode(self, tokens: int) -> float:
        """See `Engine`."""
        return sum(self._run(self._rows[:, index : index + 1]) for index in range(tokens))

    def _run(self, rows: npt.NDArray[np.float32]) -> float:
        count = rows.shape[1]
        end = self._past + count
        inputs = {
            "rows": np.ascontiguousarray(rows),
            "positions": np.arange(self._past, end, dtype=np.int64)[None],
            "key_positions": np.arange(end, dtype=np.int64)[None],
            "beam": np.zeros(1, np.int32),
        }
        begin = time.perf_counter()
        self._request.infer(inputs, share_inputs=True)
        seconds = time.perf_counter() - begin
        self._past = end
        return seconds


def open_engine(shape: Shape, threads: int, most: int, _scratch: Path) -> OpenVinoEngine:
    """See worker.py."""
    return OpenVinoEngine(shape, threads, most, {})


def open_dynamic_engine(shape: Shape, threads: int, most: int, _scratch: Path) -> OpenVinoEngine:
    """Opens OpenVINO in float32 with activations in int8; see worker.py."""
    return OpenVinoEngine(shape, threads, most, DYNAMIC_SETTINGS)


class GraphBuilder:
    """Builds the decoder from its input rows to the last position's logits."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._sinks: list[Any] = []
        self._variables: list[Any] = []
        self._weights: list[Any] = []
        self._rows = ops.parameter([-1, -1, shape.hidden], np.float32, name="rows")
        self._positions = ops.parameter([-1, -1], np.int64, name="positions")
        self._key_positions = ops.parameter([-1, -1], np.int64, name="key_positions")
        self._beam = ops.parameter([-1], np.int32, name="beam")

    def build(self) -> Any:
        """The whole model."""
        parameters = [self._rows, self._positions, self._key_positions, self._beam]
        for parameter in parameters:
            parameter.output(0).set_names({parameter.get_friendly_name()})
        rotation, mask = self._rotation(), self._mask()
        value = self._rows
        for layer in range(self._shape.layers):
            value = ops.add(value, self._attention(layer, self._norm(value), rotation, mask))
            value = ops.add(value, self._mlp(self._norm(value)))
        last = ops.slice(self._norm(value), _integers(-1), _integers(END), _integers(1), _integers(1))
        logits = ops.result(ops.matmul(last, self._int8(self._shape.vocabulary, self._shape.hidden), False, True))
        return openvino.Model([logits], self._sinks, parameters, self._variables, "decoder")

    def _norm(self, value: Any) -> Any:
        mean = ops.reduce_mean(ops.power(value, _floats(2.0)), _integers(-1), keep_dims=True)
        factor = ops.divide(_floats(1.0), ops.sqrt(ops.add(mean, _floats(EPSILON))))
        weight = np.ones((1, 1, self._shape.hidden), np.float32)
        return ops.multiply(ops.constant(weight), ops.multiply(value, factor))

    def _rotation(self) -> tuple[Any, Any]:
        """Cosine and sine, (batch, 1, positions, head_size)."""
        half = np.arange(0, self._shape.head_size, 2, dtype=np.float32) / self._shape.head_size
        frequencies = (ROTATION_BASE**-half).astype(np.float32)[None, None]  # (1, 1, head_size / 2)
        positions = ops.convert(ops.unsqueeze(self._positions, _integers(2)), "f32")
        angles = ops.multiply(positions, ops.constant(frequencies))
        both = ops.concat([angles, angles], -1)
        return ops.unsqueeze(ops.cos(both), _integers(1)), ops.unsqueeze(ops.sin(both), _integers(1))

    def _mask(self) -> Any:
        """0 where a position may look and a large negative number elsewhere, (batch, 1, positions, key positions)."""
        queries = ops.unsqueeze(self._positions, ops.constant(np.array([1, 3], np.int64)))
        keys = ops.unsqueeze(self._key_positions, ops.constant(np.array([1, 2], np.int64)))
        return ops.select(ops.less_equal(keys, queries), _floats(0.0), _floats(-65504.0))

    def _attention(self, layer: int, value: Any, rotation: tuple[Any, Any], mask: Any) -> Any:
        shape = self._shape
        query = self._rotate(self._heads(value, shape.heads), rotation)
        key = self._rotate(self._heads(value, shape.kv_heads), rotation)
        key = self._remember(f"key{layer}", key)
        content = self._remember(f"value{layer}", self._heads(value, shape.kv_heads))
        attended = ops.scaled_dot_product_attention(query, self._repeat(key), self._repeat(content), mask)
        joined = ops.reshape(
            ops.transpose(attended, ops.constant(np.array([0, 2, 1, 3], np.int64))),
            ops.constant(np.array([0, 0, shape.heads * shape.head_size], np.int64)),
            special_zero=True,
        )
        return self._product(joined, *shape.matrix("output"))

    def _heads(self, value: Any, heads: int) -> Any:
        """A projection with its bias, (batch, heads, positions, head_size)."""
        rows = heads * self._shape.head_size
        bias = ops.constant(np.full((1, 1, rows), 0.01, np.float32))
        projected = ops.add(self._product(value, rows, self._shape.hidden), bias)
        size = ops.constant(np.array([0, 0, heads, self._shape.head_size], np.int64))
        split = ops.reshape(projected, size, special_zero=True)
        return ops.transpose(split, ops.constant(np.array([0, 2, 1, 3], np.int64)))

    def _rotate(self, value: Any, rotation: tuple[Any, Any]) -> Any:
        half = self._shape.head_size // 2
        lower = ops.slice(value, _integers(0), _integers(half), _integers(1), _integers(3))
        upper = ops.slice(value, _integers(half), _integers(END), _integers(1), _integers(3))
        turned = ops.concat([ops.multiply(upper, _floats(-1.0)), lower], -1)
        return ops.add(ops.multiply(value, rotation[0]), ops.multiply(turned, rotation[1]))

    def _remember(self, name: str, value: Any) -> Any:
        """The state with the new positions behind it, (batch, kv_heads, all positions, head_size)."""
        size = openvino.PartialShape([-1, self._shape.kv_heads, -1, self._shape.head_size])
        info = openvino.op.util.VariableInfo()
        info.data_shape, info.data_type, info.variable_id = size, openvino.Type.f32, name
        variable = openvino.op.util.Variable(info)
        batch = ops.gather(ops.shape_of(self._rows), _integers(0), _integers(0))
        rest = ops.constant(np.array([self._shape.kv_heads, 0, self._shape.head_size], np.int64))
        empty = ops.broadcast(_floats(0.0), ops.concat([batch, rest], 0))
        past = ops.gather(ops.read_value(empty, variable), self._beam, _integers(0))
        joined = ops.concat([past, value], 2)
        self._sinks.append(ops.assign(joined, variable))
        self._variables.append(variable)
        return joined

    def _repeat(self, value: Any) -> Any:
        """Every kv head once for each of its query heads."""
        shape = self._shape
        group = shape.heads // shape.kv_heads
        lengths = ops.shape_of(value)
        batch = ops.gather(lengths, _integers(0), _integers(0))
        positions = ops.gather(lengths, _integers(2), _integers(0))
        heads, channels = _integers(shape.kv_heads), _integers(shape.head_size)
        target = ops.concat([batch, heads, _integers(group), positions, channels], 0)
        wide = ops.broadcast(ops.unsqueeze(value, _integers(2)), target, broadcast_spec="BIDIRECTIONAL")
        size = ops.constant(np.array([0, shape.heads, -1, shape.head_size], np.int64))
        return ops.reshape(wide, size, special_zero=True)

    def _mlp(self, value: Any) -> Any:
        shape = self._shape
        gate = self._product(value, shape.intermediate, shape.hidden)
        up = self._product(value, shape.intermediate, shape.hidden)
        return self._product(ops.multiply(ops.swish(gate), up), *shape.matrix("down"))

    def _product(self, value: Any, rows: int, columns: int) -> Any:
        """A product with a new int4 matrix (rows, columns)."""
        groups = columns // GROUP_SIZE
        packed = np.frombuffer(b"".join(random_bytes(rows * columns // 2)), np.uint8)
        self._weights.append(packed)  # a tensor does not own what it is made of
        weights = ops.constant(openvino.Tensor(packed, openvino.Shape([rows, groups, GROUP_SIZE]), openvino.Type.i4))
        scales = np.full((rows, groups, 1), columns**-0.5 / 4.6, np.float16)
        wide = ops.multiply(ops.convert(weights, "f16"), ops.constant(scales))
        flat = ops.reshape(wide, ops.constant(np.array([rows, columns], np.int64)), special_zero=False)
        return ops.matmul(value, ops.convert(flat, "f32"), False, True)

    def _int8(self, rows: int, columns: int) -> Any:
        packed = np.frombuffer(b"".join(random_bytes(rows * columns)), np.int8).reshape(rows, columns)
        scales = np.full((rows, 1), columns**-0.5 / 73.9, np.float16)
        wide = ops.multiply(ops.convert(ops.constant(packed), "f16"), ops.constant(scales))
        return ops.convert(wide, "f32")


def _check_fusions(compiled: Any, shape: Shape) -> None:
    """Another release may no longer know the graph; a comparison with a slow one would be none."""
    operations = [(_plain(one.get_rt_info()["layerType"]), one) for one in compiled.get_runtime_model().get_ops()]
    counts = {
        "attentions with their cache": sum(
            kind == "ScaledDotProductAttention" and len(one.inputs()) > ATTENTION_INPUTS for kind, one in operations
        ),
        "rotations": sum(kind == "RoPE" for kind, _ in operations) // 2,
        "products with int4 weights": sum(
            kind == "FullyConnected" and one.input(1).get_element_type() == openvino.Type.i4 for kind, one in operations
        )
        // PRODUCTS_PER_LAYER,
    }
    for what, count in counts.items():
        if count != shape.layers:
            raise RuntimeError(f"OpenVINO fused the {what} of {count} of {shape.layers} layers")


def _plain(value: Any) -> str:
    """OpenVINO's own values and types as text."""
    value = getattr(value, "value", value)
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value)


def _integers(value: int) -> Any:
    return ops.constant(np.array([value], np.int64))


def _floats(value: float) -> Any:
    return ops.constant(np.array(value, np.float32))


def _int4_bytes(rows: int, columns: int) -> int:
    return rows * columns // 2 + rows * (columns // GROUP_SIZE) * 2
