"""Builds an ONNX graph by hand while its weights stream into the external data file."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from valley2_edge.errors import ExportError

OPSET = 20
"""Version of the operator set: TensorRT accepts up to 21, and Gelu is an operator since 20."""
IR_VERSION = 9
PRODUCER = "valley2-edge"
PAGE_BYTES = 4096
"""Large weights begin at a multiple of this many bytes, so that a runtime can map them."""
LINE_BYTES = 64
INLINE_BYTES = 1024
"""Constants below this many bytes stay in the graph, where shape inference can see them."""

Dimension = int | str
MatrixValues = NDArray[np.uint16] | NDArray[np.float32]
"""A matrix in bf16, as the bits of its numbers, since numpy has no such type; or in float32."""


class Graph:
    """An ONNX graph under construction. Use it as a context, then `save` it inside.

    Every method that adds something returns the name of the value that it adds; a value, its node and its weight share
    one readable name such as `layers.0.attention.scores`.

    Args:
        name: Name of the graph.
        path: The graph's file; the weights go into one file beside it, with `.data` added to its name.
    """

    def __init__(self, name: str, path: Path):
        self._name = name
        self._path = path
        self._data = data_path(path).open("wb")
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()

    def input(self, name: str, element_type: int, shape: tuple[Dimension, ...]) -> str:
        """Declares an input of the graph.

        Args:
            name: The input's name.
            element_type: An element type of onnx.TensorProto.
            shape: Its dimensions; a string names a dimension of any size.
        """
        self._inputs.append(helper.make_tensor_value_info(name, element_type, shape))
        return name

    def output(self, value: str, name: str, shape: tuple[Dimension, ...]) -> None:
        """Declares a float32 output of the graph.

        Args:
            value: The value that the output has.
            name: The output's name.
            shape: Its dimensions; a string names a dimension of any size.
        """
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output.

        Args:
            operator: An operator of the operator set.
            inputs: Names of its inputs.
            name: Name of the node and of its output.
            attributes: The operator's attributes.
        """
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def split(self, value: str, name: str, parts: list[str], axis: int) -> list[str]:
        """Adds a Split into equal parts.

        Args:
            value: The value that is split.
            name: Name of the node.
            parts: Names of the parts; the outputs are called `name.part`.
            axis: The axis that is cut.
        """
        outputs = [f"{name}.{part}" for part in parts]
        self._nodes.append(helper.make_node("Split", [value], outputs, name=name, axis=axis, num_outputs=len(parts)))
        return outputs

    def scan(self, carried: str, value: str, name: str, body: onnx.GraphProto) -> str:
        """Adds a Scan over the first axis of a value.

        Args:
            carried: A scalar that the body takes and gives in every step.
            value: The value whose first axis is walked along.
            name: Name of the node and of its output.
            body: A graph with the inputs and outputs (carried scalar, part).
        """
        outputs = [name + ".carried", name]
        self._nodes.append(helper.make_node("Scan", [carried, value], outputs, name=name, body=body, num_scan_inputs=1))
        return name

    def integers(self, *values: int) -> str:
        """Adds an int64 vector, such as the target of a Reshape; equal ones are shared."""
        return self._inline("integers." + "_".join(str(value) for value in values), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Adds a float32 scalar; equal ones are shared."""
        return self._inline(f"scalar.{value!r}", np.array(value, np.float32))

    def vector(self, name: str, values: NDArray[np.float32]) -> str:
        """Adds a weight in float32, such as a bias or a scale.

        Args:
            name: Name of the weight.
            values: The weight, of any shape.
        """
        return self._store(name, values, TensorProto.FLOAT)

    def matrix(self, name: str, values: MatrixValues) -> str:
        """Adds a weight as it is: in float32, or in bf16 with a Cast to float32 behind it.

        Args:
            name: Name of the weight.
            values: The weight, of any shape.

        Returns:
            The name of the value in float32.
        """
        if values.dtype == np.float32:
            return self._store(name, values, TensorProto.FLOAT)
        stored = self._store(f"{name}.bf16", values, TensorProto.BFLOAT16)
        return self.node("Cast", [stored], name, to=TensorProto.FLOAT)

    def save(self) -> None:
        """Writes the graph's file."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=PRODUCER
        )
        self._data.flush()
        self._path.write_bytes(model.SerializeToString())

    def _inline(self, name: str, values: NDArray[Any]) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(values, name)
        return name

    def _store(self, name: str, values: NDArray[Any], data_type: int) -> str:
        if name in self._initializers:
            raise ExportError(f"The weight {name} is stored twice.")
        array = np.ascontiguousarray(values)
        proto = TensorProto(name=name, data_type=data_type, dims=array.shape)
        self._initializers[name] = proto
        if array.nbytes < INLINE_BYTES:
            proto.raw_data = array.tobytes()
            return name
        alignment = PAGE_BYTES if array.nbytes >= PAGE_BYTES else LINE_BYTES
        self._data.write(bytes(-self._data.tell() % alignment))
        proto.data_location = TensorProto.EXTERNAL
        place = {"location": data_path(self._path).name, "offset": self._data.tell(), "length": array.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        self._data.write(array.data.cast("B"))
        return name


def data_path(path: Path) -> Path:
    """The file with the weights of the graph at `path`."""
    return path.with_name(path.name + ".data")
