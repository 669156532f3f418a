"""Puts fp16 arithmetic into a vision graph, whose own is float32: TensorRT takes every type as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

Width = Literal["half", "single"]

# Norms sum squares; angles of positions and what is no arithmetic keep the type that they have.
_ALWAYS_SINGLE = {"LayerNormalization", "Cos", "Sin", "Cast", "Constant", "ConstantOfShape"}
_PAGE_BYTES = 4096


def to_half(
    model: onnx.ModelProto, kept: Set[str], directory: Path = Path(), data: Path | None = None
) -> onnx.ModelProto:
    """A copy of the graph that computes in fp16, with float32 inputs and outputs.

    Args:
        model: Its matrices are in float32, or in bf16 behind a Cast.
        kept: Nodes that stay in float32, by name; norms, angles and outputs do in any case.
        directory: Where the files lie that have those weights of the graph that it does not hold itself.
        data: The file to write all weights of the copy into, one after the other, so that they are never in memory
            together. None: the copy holds those that are new.

    Raises:
        OSError: The file cannot be written.
    """
    with ExitStack() as stack:
        stream = None if data is None else stack.enter_context(data.open("wb"))
        return _Rewriter(model, kept, directory, stream).rewritten()


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, kept: Set[str], directory: Path, data: BinaryIO | None) -> None:
        self._model = model
        self._kept = kept
        self._directory = str(directory)
        self._data = data
        inferred = onnx.shape_inference.infer_shapes(model)
        infos = [*inferred.graph.value_info, *model.graph.input, *model.graph.output]
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self._casts = {node.output[0]: node for node in model.graph.node if self._widens_a_weight(node)}
        """The nodes that widen weights in bf16, by the names of the wide ones."""
        self._made: dict[tuple[str, Width], str] = {(name, "single"): name for name in self._floats - {*self._casts}}
        self._nodes: list[onnx.NodeProto] = []
        self._new_constants: list[onnx.TensorProto] = []

    def rewritten(self) -> onnx.ModelProto:
        outputs = {info.name for info in self._model.graph.output}
        for node in self._model.graph.node:
            if node.output[0] in self._casts:
                continue  # comes before the first node that takes the wide weight
            single = node.op_type in _ALWAYS_SINGLE or node.name in self._kept or bool(outputs & set(node.output))
            self._add(node, "single" if single else "half")
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        graph = result.graph
        del graph.node[:], graph.value_info[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        used = set(_taken(graph))
        graph.initializer.extend(self._placed(one) for one in self._model.graph.initializer if one.name in used)
        graph.initializer.extend(self._new_constants)
        return result

    def _add(self, node: onnx.NodeProto, width: Width) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        gives_floats = any(name in self._floats for name in node.output)
        if gives_floats:
            for place, name in enumerate(node.input):
                if name in self._floats:
                    copy.input[place] = self._in(name, width)
        if node.op_type == "Scan":
            self._change_body(copy, width)
        self._nodes.append(copy)
        if width == "half":
            for name in node.output:
                if name in self._floats:
                    self._made[name, "half"] = name
                    del self._made[name, "single"]

    def _in(self, name: str, width: Width) -> str:
        """The name under which a float value is to be had in a width."""
        known = self._made.get((name, width))
        if known is not None:
            return known
        cast = self._casts.get(name)
        constant = self._constants.get(name if cast is None else cast.input[0])
        other = f"{name}.{width}"
        if constant is None:
            kind = TensorProto.FLOAT16 if width == "half" else TensorProto.FLOAT
            self._nodes.append(helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=kind))
        elif width == "half":
            # Beyond fp16's range it becomes an infinity: who takes such weights is to be kept in float32.
            with np.errstate(over="ignore"):
                half = numpy_helper.to_array(constant, self._directory).astype(np.float32).astype(np.float16)
            self._new_constants.append(self._placed(numpy_helper.from_array(half, other)))
        elif cast is not None:
            self._nodes.append(cast)
            other = name
        self._made[name, width] = other
        return other

    def _change_body(self, scan: onnx.NodeProto, width: Width) -> None:
        """The body's own values change with the node; what it captures from outside is asked for in the same width."""
        body = _body(scan)
        own = {info.name for info in body.input} | {name for node in body.node for name in node.output}
        for node in body.node:
            for place, name in enumerate(node.input):
                if name not in own and name in self._floats:
                    node.input[place] = self._in(name, width)
        if width == "half":
            for info in (*body.input, *body.output):
                info.type.tensor_type.elem_type = TensorProto.FLOAT16

    def _placed(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The weight where the copy has it: in the file, if there is one."""
        if self._data is None:
            return tensor
        loaded = onnx.TensorProto()
        loaded.CopyFrom(tensor)
        if uses_external_data(loaded):
            load_external_data_for_tensor(loaded, self._directory)
        if len(loaded.raw_data) < _PAGE_BYTES:
            loaded.data_location = TensorProto.DEFAULT
            return loaded
        self._data.write(bytes(-self._data.tell() % _PAGE_BYTES))
        placed = TensorProto(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
        )
        place = {"location": Path(self._data.name).name, "offset": self._data.tell(), "length": len(loaded.raw_data)}
        for key, value in place.items():
            placed.external_data.add(key=key, value=str(value))
        self._data.write(loaded.raw_data)
        return placed

    def _widens_a_weight(self, node: onnx.NodeProto) -> bool:
        stored = self._constants.get(node.input[0]) if node.op_type == "Cast" else None
        return stored is not None and stored.data_type == TensorProto.BFLOAT16


def _taken(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values that nodes take, those inside a Scan among them."""
    for node in graph.node:
        yield from node.input
        if node.op_type == "Scan":
            yield from _taken(_body(node))


def _body(scan: onnx.NodeProto) -> onnx.GraphProto:
    body: onnx.GraphProto = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    return body
