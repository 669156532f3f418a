"""What an ONNX graph would make ONNX Runtime open besides itself, read from the protobuf without the onnx package.

Weights outside of a graph are named in `TensorProto.external_data`; nothing else may be. Field numbers are those of
onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_GRAPH_BYTES = 64 << 20
"""The largest graph that is read; its weights lie beside it, so that it is small."""
_MAX_DEPTH = 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
# Message → field number → the message that it holds, of the fields through which a tensor can be reached.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {13: "entry"},
}
_LOCATION, _EXTERNAL_OPERATOR = b"location", b"EPContext"


def referenced_files(graph: bytes) -> set[str]:
    """Names of the files that a graph refers to, relative to its own folder.

    Args:
        graph: A serialised ModelProto.

    Raises:
        ValueError: It is no protobuf, or has an operator that loads a compiled engine from elsewhere.
    """
    return set(_locations(memoryview(graph), "model", _MAX_DEPTH))


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth == 0:
        raise ValueError("its subgraphs are nested too deeply")
    if message == "operator":
        if bytes(data) == _EXTERNAL_OPERATOR:
            raise ValueError("it has the operator EPContext, which loads a compiled engine")
        return
    if message == "entry":
        fields = {number: bytes(value) for number, value in _fields(data)}
        if fields.get(1) == _LOCATION:
            yield fields.get(2, b"").decode()
        return
    children = _FIELDS[message]
    for number, value in _fields(data):
        if number in children:
            yield from _locations(value, children[number], depth - 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that holds bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
            continue
        size = _FIXED_SIZES.get(kind)
        if kind == _BYTES:
            size, position = _varint(data, position)
        if size is None or size > len(data) - position:
            raise ValueError("it is not an ONNX graph")
        if kind == _BYTES:
            yield key >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is not an ONNX graph")
