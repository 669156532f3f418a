"""How large the values of a vision graph become on sample inputs: where fp16 would overflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from valley2_edge.errors import EngineError
from valley2_edge.runtime.onnx.engine import session_options
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime
from valley2_edge.runtime.onnx.providers import first_line

if TYPE_CHECKING:
    import onnxruntime

Feeds = Iterable[Mapping[str, NDArray[Any]]]
"""The inputs of each sample, by name."""

LARGEST_HALF = 65504.0
MARGIN = 8.0
"""Other pictures than the samples may reach this much further."""


def nodes_beyond_half(path: Path, feeds: Feeds, margin: float = MARGIN) -> set[str]:
    """Nodes of a float32 graph that take or give a value too large for fp16, found by running it on samples.

    Args:
        path: The graph, its weights beside it.
        feeds: Sample inputs.
        margin: A node stays in float32 when a value exceeds fp16's range divided by this.

    Raises:
        EngineError: ONNX Runtime does not take the graph.
    """
    # Weights stay in their file, or else several copies of them would be in memory.
    model = onnx.load(str(path), load_external_data=False)
    ranges = _measure(model, path, feeds) | _weight_ranges(model, path)
    limit = LARGEST_HALF / margin
    beyond = set()
    for node in model.graph.node:
        names = [*node.input, *node.output, *_inner_names(node)]
        # Written so that a NaN and an infinity count as beyond
        if not all(ranges.get(name, 0.0) <= limit for name in names):
            beyond.add(node.name)
    return beyond


def _measure(model: onnx.ModelProto, path: Path, feeds: Feeds) -> dict[str, float]:
    """Largest magnitude of every float value between the nodes, those inside a Scan among them."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model)
    floats = {info.name for info in inferred.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    outputs: dict[str, str] = {}
    nodes = list(watched.graph.node)
    del watched.graph.node[:]
    for node in nodes:
        added = watched.graph.node.add()
        added.CopyFrom(node)
        # Beside the node, so that a value goes when the next node has it and not at the end of the run.
        for value in node.output:
            if value in floats and value not in weights:
                outputs[value] = _watch(watched.graph, value)
        if node.op_type == "Scan":
            outputs |= _watch_body(watched.graph, added)
    largest = dict.fromkeys(outputs, 0.0)
    session = _open(watched, path)
    for feed in feeds:
        found = session.run(list(outputs.values()), dict(feed))
        for name, values in zip(outputs, found, strict=True):
            largest[name] = float(np.maximum(largest[name], np.max(values, initial=0.0)))
    return largest


def _open(model: onnx.ModelProto, path: Path) -> onnxruntime.InferenceSession:
    options = session_options(0)
    # In the order of the graph: by default the measures would come last, and all values would be kept for them.
    onnxruntime = import_onnxruntime()
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors share no base class of their own.
    except Exception as error:
        raise EngineError(f"ONNX Runtime does not take {path.name}: {first_line(error)}") from error


def _watch(graph: onnx.GraphProto, value: str) -> str:
    result = f"{value}.largest"
    graph.node.append(helper.make_node("Abs", [value], [f"{value}.magnitude"]))
    graph.node.append(helper.make_node("ReduceMax", [f"{value}.magnitude"], [result], keepdims=0))
    graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, ()))
    return result


def _watch_body(graph: onnx.GraphProto, scan: onnx.NodeProto) -> dict[str, str]:
    body = _body(scan)
    outputs = {}
    for node in list(body.node):
        if node.op_type == "Identity":  # the number that is carried
            continue
        for value in node.output:
            result = _watch(body, value)
            scan.output.append(f"{result}.blocks")
            graph.output.append(helper.make_tensor_value_info(f"{result}.blocks", TensorProto.FLOAT, (None,)))
            outputs[value] = f"{result}.blocks"
    return outputs


def _weight_ranges(model: onnx.ModelProto, path: Path) -> dict[str, float]:
    """The largest magnitude of every weight, by the name of its float32 value."""
    widened = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    ranges = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.BFLOAT16):
            values = onnx.numpy_helper.to_array(tensor, str(path.parent)).astype(np.float32)
            ranges[widened.get(tensor.name, tensor.name)] = float(np.abs(values).max(initial=0.0))
    return ranges


def _inner_names(node: onnx.NodeProto) -> list[str]:
    if node.op_type != "Scan":
        return []
    return [name for inner in _body(node).node for name in (*inner.input, *inner.output)]


def _body(scan: onnx.NodeProto) -> onnx.GraphProto:
    body: onnx.GraphProto = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    return body
