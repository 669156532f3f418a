"""ONNX Runtime: MatMulNBits and GroupQueryAttention, the graph that onnxruntime-genai makes for int4 on the CPU.

Symmetric groups of 128, activations in int8 (accuracy_level 4), queries, keys and values in one product, the rotation
inside the attention, keys and values written in place, the output matrix for the last position alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from engine import GROUP_SIZE, MATRICES, About, Shape, random_bytes, random_rows
from onnx import TensorProto, helper

CONTRIB = "com.microsoft"
ALIGNMENT = 4096
INT8_ACTIVATIONS = 4
EPSILON = 1e-6
ROTATION_BASE = 1e6


class OnnxRuntimeEngine:
    """One session with its keys and values in buffers that are read and written in place."""

    def __init__(self, shape: Shape, threads: int, most: int, scratch: Path) -> None:
        with GraphWriter(scratch, shape, most) as graph:
            graph.write()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(scratch / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._shape = shape
        self._rows = random_rows(shape, most)[None]
        self._past = 0
        cache = np.zeros((1, shape.kv_heads, most, shape.head_size), np.float32)
        self._cache = {
            f"{kind}{layer}": onnxruntime.OrtValue.ortvalue_from_numpy(cache.copy())
            for layer in range(shape.layers)
            for kind in ("key", "value")
        }
        layer_bytes = sum(_weight_bytes(*shape.matrix(name)) for name in MATRICES)
        self.about = About(
            f"onnxruntime {onnxruntime.__version__}",
            "int4 g128 symmetric, lm_head too, scales fp32",
            layer_bytes,
            _weight_bytes(shape.vocabulary, shape.hidden),
            MATRICES,
        )

    def prefill(self, positions: int) -> float:
        """See `Engine`."""
        self._past = 0
        return self._run(self._rows[:, :positions])

    def decode(self, tokens: int) -> float:
        """See `Engine`."""
        return sum(self._run(self._rows[:, index : index + 1]) for index in range(tokens))

    def _run(self, rows: npt.NDArray[np.float32]) -> float:
        count = rows.shape[1]
        binding = self._session.io_binding()
        binding.bind_cpu_input("rows", np.ascontiguousarray(rows))
        binding.bind_cpu_input("last", np.array([self._past + count - 1], np.int32))
        binding.bind_cpu_input("total", np.array(self._past + count, np.int32))
        for name, value in self._cache.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        binding.bind_output("logits")
        begin = time.perf_counter()
        self._session.run_with_iobinding(binding)
        seconds = time.perf_counter() - begin
        self._past += count
        return seconds


def open_engine(shape: Shape, threads: int, most: int, scratch: Path) -> OnnxRuntimeEngine:
    """See worker.py."""
    return OnnxRuntimeEngine(shape, threads, most, scratch)


class GraphWriter:
    """Writes model.onnx, and its weights into a file beside it."""

    def __init__(self, directory: Path, shape: Shape, most: int) -> None:
        self._directory = directory
        self._shape = shape
        self._most = most
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._inputs = [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, "positions", shape.hidden]),
            helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total", TensorProto.INT32, []),
        ]
        self._outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, shape.vocabulary])]
        self._weights = (directory / "weights.bin").open("wb")

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.close()

    def write(self) -> None:
        """The whole model."""
        angles = np.outer(np.arange(self._most), _frequencies(self._shape.head_size))
        self._constant("cosine", np.cos(angles).astype(np.float32))
        self._constant("sine", np.sin(angles).astype(np.float32))
        residual, normed = "rows", self._first_norm()
        for layer in range(self._shape.layers):
            attended = self._attention(layer, normed)
            residual, normed = self._add_and_norm(f"{layer}.mlp", residual, attended)
            residual, normed = self._add_and_norm(f"{layer}.next", residual, self._mlp(layer, normed))
        self._constant("end", np.array([-1], np.int64))
        self._node("Gather", [normed, "end"], ["last_row"], axis=1)
        logits = self._product("lm_head", "last_row", self._shape.vocabulary, self._shape.hidden)
        self._node("Identity", [logits], ["logits"])
        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        onnx.save(model, str(self._directory / "model.onnx"))

    def _first_norm(self) -> str:
        weight = self._constant("first_norm", np.ones(self._shape.hidden, np.float32))
        self._node("SimplifiedLayerNormalization", ["rows", weight], ["first"], axis=-1, epsilon=EPSILON, stash_type=1)
        return "first"

    def _add_and_norm(self, name: str, residual: str, added: str) -> tuple[str, str]:
        """The sum of two values and its norm."""
        weight = self._constant(f"{name}.norm", np.ones(self._shape.hidden, np.float32))
        outputs = [f"{name}.normed", "", "", f"{name}.residual"]
        self._node(
            "SkipSimplifiedLayerNormalization", [residual, added, weight], outputs, domain=CONTRIB, epsilon=EPSILON
        )
        return outputs[3], outputs[0]

    def _attention(self, layer: int, value: str) -> str:
        shape = self._shape
        product = self._product(f"{layer}.qkv", value, *shape.matrix("qkv"))
        bias = self._constant(f"{layer}.bias", np.full(shape.qkv_rows, 0.01, np.float32))
        self._node("Add", [product, bias], [f"{layer}.biased"])
        caches = [f"key{layer}", f"value{layer}"]
        for name in caches:
            size = [1, shape.kv_heads, self._most, shape.head_size]
            self._inputs.append(helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, size))
            self._outputs.append(helper.make_tensor_value_info(f"present_{name}", TensorProto.FLOAT, size))
        pasts = [f"past_{name}" for name in caches]
        self._node(
            "GroupQueryAttention",
            [f"{layer}.biased", "", "", *pasts, "last", "total", "cosine", "sine"],
            [f"{layer}.attended", *(f"present_{name}" for name in caches)],
            domain=CONTRIB,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=1,
        )
        return self._product(f"{layer}.output", f"{layer}.attended", *shape.matrix("output"))

    def _mlp(self, layer: int, value: str) -> str:
        shape = self._shape
        gate = self._product(f"{layer}.gate", value, shape.intermediate, shape.hidden)
        up = self._product(f"{layer}.up", value, shape.intermediate, shape.hidden)
        self._node("Sigmoid", [gate], [f"{layer}.sigmoid"])
        self._node("Mul", [gate, f"{layer}.sigmoid"], [f"{layer}.silu"])
        self._node("Mul", [f"{layer}.silu", up], [f"{layer}.gated"])
        return self._product(f"{layer}.down", f"{layer}.gated", *shape.matrix("down"))

    def _product(self, name: str, value: str, rows: int, columns: int) -> str:
        """A product with a new int4 matrix (rows, columns)."""
        groups = columns // GROUP_SIZE
        blob = (rows, groups, GROUP_SIZE // 2)
        self._external(f"{name}.weight", TensorProto.UINT8, blob, rows * columns // 2)
        self._constant(f"{name}.scales", np.full((rows, groups), columns**-0.5 / 4.6, np.float32))
        self._node(
            "MatMulNBits",
            [value, f"{name}.weight", f"{name}.scales"],
            [f"{name}.product"],
            domain=CONTRIB,
            bits=4,
            block_size=GROUP_SIZE,
            K=columns,
            N=rows,
            accuracy_level=INT8_ACTIVATIONS,
        )
        return f"{name}.product"

    def _external(self, name: str, kind: int, shape: tuple[int, ...], size: int) -> None:
        """A tensor of random bytes in the file of weights."""
        self._weights.write(bytes(-self._weights.tell() % ALIGNMENT))
        tensor = onnx.TensorProto()
        tensor.name, tensor.data_type, tensor.data_location = name, kind, TensorProto.EXTERNAL
        tensor.dims.extend(shape)
        for key, value in (("location", "weights.bin"), ("offset", self._weights.tell()), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        for piece in random_bytes(size):
            self._weights.write(piece)
        self._initializers.append(tensor)

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self._initializers.append(onnx.numpy_helper.from_array(values, name))
        return name

    def _node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, outputs, **attributes))


def _frequencies(head_size: int) -> npt.NDArray[np.float64]:
    return ROTATION_BASE ** -(np.arange(0, head_size, 2) / head_size)


def _weight_bytes(rows: int, columns: int) -> int:
    return rows * columns // 2 + rows * (columns // GROUP_SIZE) * 4
