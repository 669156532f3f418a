"""The files that an ONNX graph refers to, against the onnx package's own messages."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest
from onnx import TensorProto, helper

from valley2_edge.onnx_references import referenced_files


def outside(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(*nodes: onnx.NodeProto, initializer: list[TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], initializer=initializer or [])


def sparse(location: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside("v", location), indices=outside("i", location + ".indices"))


def models() -> Iterator[tuple[onnx.ModelProto, set[str]]]:
    yield onnx.ModelProto(), set()
    yield helper.make_model(graph(initializer=[outside("w", "w.data"), outside("x", "../x")])), {"w.data", "../x"}
    constant = helper.make_node("Constant", [], ["c"], value=outside("c", "constant"))
    yield helper.make_model(graph(constant)), {"constant"}
    inner = graph(constant, initializer=[outside("n", "nested")])
    loop = helper.make_node(
        "Loop", ["a", "b"], ["c"], body=graph(helper.make_node("If", ["d"], ["e"], then_branch=inner))
    )
    yield helper.make_model(graph(loop)), {"constant", "nested"}
    several = helper.make_node("Own", [], ["c"], domain="x")
    several.attribute.append(onnx.AttributeProto(name="t", tensors=[outside("t", "tensors")]))
    several.attribute.append(onnx.AttributeProto(name="s", sparse_tensor=sparse("sparse")))
    several.attribute.append(onnx.AttributeProto(name="g", graphs=[inner]))
    yield (
        helper.make_model(graph(several)),
        {"tensors", "sparse", "sparse.indices", "constant", "nested"},
    )
    thin = graph()
    thin.sparse_initializer.append(sparse("thin"))
    yield helper.make_model(thin), {"thin", "thin.indices"}
    function = helper.make_function("x", "f", [], ["c"], [constant], [helper.make_opsetid("", 20)])
    yield helper.make_model(graph(), functions=[function]), {"constant"}
    training = helper.make_model(graph())
    training.training_info.add(initialization=graph(initializer=[outside("w", "first")]), algorithm=inner)
    yield training, {"first", "constant", "nested"}


@pytest.mark.parametrize(("model", "expected"), list(models()))
def test_every_place_of_a_tensor_is_found(model: onnx.ModelProto, expected: set[str]) -> None:
    assert referenced_files(model.SerializeToString()) == expected


def test_weights_inside_of_the_graph_are_no_reference() -> None:
    weights = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(helper.make_tensor("w", 1, [2], [1.0, 2.0])))
    assert referenced_files(helper.make_model(graph(initializer=[weights])).SerializeToString()) == set()


def test_operator_that_loads_an_engine_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["c"], domain="com.microsoft", ep_cache_context="../engine")
    with pytest.raises(ValueError, match="EPContext"):
        referenced_files(helper.make_model(graph(node)).SerializeToString())


def test_endless_nesting_is_refused() -> None:
    # A graph in an attribute of a node of a graph, written from the inside: no library goes this deep.
    inner = b""
    for number in (6, 5, 1) * 60 + (7,):
        size = len(inner)
        length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
        inner = bytes([number << 3 | 2]) + length + inner
    with pytest.raises(ValueError, match="nested too deeply"):
        referenced_files(inner)


@pytest.mark.parametrize(
    "content", [b"not a graph", b"\x3a\xff", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b"]
)
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="is not an ONNX graph"):
        referenced_files(content)
