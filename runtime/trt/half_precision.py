"""Puts fp16 arithmetic into a vision graph, whose own is float32: TensorRT takes every type as it is written."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Width = Literal["half", "single"]

# Norms sum squares; angles of positions and what is no arithmetic keep the type that they have.
_ALWAYS_SINGLE = {"LayerNormalization", "Cos", "Sin", "Cast", "Constant", "ConstantOfShape"}


def to_half(model: onnx.ModelProto, kept: Set[str], directory: str = "") -> onnx.ModelProto:
    """A copy of the graph that computes in fp16, with float32 inputs and outputs.

    Args:
        model: Matrices may be stored in fp16 behind a Cast, as export writes them. Weights that it does not hold stay
            in their file, unless they become fp16 here.
        kept: Nodes that stay in float32, by name; norms, angles and outputs do in any case.
        directory: The directory of that file.
    """
    return _Rewriter(model, kept, directory).rewritten()


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, kept: Set[str], directory: str) -> None:
        self._model = model
        self._kept = kept
        self._directory = directory
        inferred = onnx.shape_inference.infer_shapes(model)
        infos = [*inferred.graph.value_info, *model.graph.input, *model.graph.output]
        self._floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made: dict[tuple[str, Width], str] = {(name, "single"): name for name in self._floats}
        self._nodes: list[onnx.NodeProto] = []
        self._new_constants: list[onnx.TensorProto] = []

    def rewritten(self) -> onnx.ModelProto:
        outputs = {info.name for info in self._model.graph.output}
        for node in self._model.graph.node:
            stored = self._constants.get(node.input[0]) if node.op_type == "Cast" else None
            if stored is not None and stored.data_type == TensorProto.FLOAT16:
                # The weight itself is the narrow form; the Cast is there for those who need the wide one.
                self._made[node.output[0], "half"] = stored.name
                self._nodes.append(node)
                continue
            single = node.op_type in _ALWAYS_SINGLE or node.name in self._kept or bool(outputs & set(node.output))
            self._add(node, "single" if single else "half")
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        del result.graph.node[:], result.graph.value_info[:]
        result.graph.node.extend(self._nodes)
        result.graph.initializer.extend(self._new_constants)
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
        other = f"{name}.{width}"
        constant = self._constants.get(name)
        if constant is not None:
            values = numpy_helper.to_array(constant, self._directory).astype(np.float16)
            self._new_constants.append(numpy_helper.from_array(values, other))
        else:
            kind = TensorProto.FLOAT16 if width == "half" else TensorProto.FLOAT
            self._nodes.append(helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=kind))
        self._made[name, width] = other
        return other

    def _change_body(self, scan: onnx.NodeProto, width: Width) -> None:
        """The body's own values change with the node; what it captures from outside is asked for in the same width."""
        body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
        own = {info.name for info in body.input} | {name for node in body.node for name in node.output}
        for node in body.node:
            for place, name in enumerate(node.input):
                if name not in own and name in self._floats:
                    node.input[place] = self._in(name, width)
        if width == "half":
            for info in (*body.input, *body.output):
                info.type.tensor_type.elem_type = TensorProto.FLOAT16
