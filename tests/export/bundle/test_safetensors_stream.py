"""The streamed file is an ordinary safetensors file whose tensors are aligned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from valley2_edge.errors import ExportError
from valley2_edge.export.bundle.safetensors_stream import SafetensorsStream, TensorPlan, dtype_name, file_size

PLAN = [
    TensorPlan("a", "F32", (3, 5)),
    TensorPlan("b", "BF16", (32,)),
    TensorPlan("c", "U8", (1,)),
    TensorPlan("d", "F16", (2, 2)),
]


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b": torch.randn(32, generator=generator).to(torch.bfloat16),
        "c": torch.tensor([7], dtype=torch.uint8),
        "d": torch.randn(2, 2, generator=generator).to(torch.float16),
    }


def _write(path: Path) -> None:
    with SafetensorsStream(path, PLAN, {"format": "test", "odd": "x" * 5}) as stream:
        for name, tensor in _tensors().items():
            stream.write(name, list(tensor.split(2)) if tensor.ndim > 1 else [tensor])


def test_a_standard_reader_gets_every_tensor_and_the_metadata(tmp_path: Path) -> None:
    _write(tmp_path / "file.safetensors")
    with safe_open(tmp_path / "file.safetensors", "pt") as reader:
        assert reader.metadata() == {"format": "test", "odd": "xxxxx"}
        for name, tensor in _tensors().items():
            assert torch.equal(reader.get_tensor(name), tensor)


def test_every_tensor_begins_at_a_multiple_of_64_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    _write(path)
    data = path.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + header_size])
    assert (8 + header_size) % 64 == 0
    starts = {name: 8 + header_size + entries[name]["data_offsets"][0] for name in "abcd"}
    assert all(start % 64 == 0 for start in starts.values())
    assert data[starts["c"]] == 7


def test_the_size_is_known_before_anything_is_written(tmp_path: Path) -> None:
    _write(tmp_path / "file.safetensors")
    metadata = {"format": "test", "odd": "x" * 5}
    assert file_size(PLAN, metadata) == (tmp_path / "file.safetensors").stat().st_size


def test_a_wrong_order_dtype_or_size_is_refused(tmp_path: Path) -> None:
    tensors = _tensors()
    with pytest.raises(ExportError, match="b is not the next"), SafetensorsStream(tmp_path / "f", PLAN, {}) as stream:
        stream.write("b", [tensors["b"]])
    with pytest.raises(ExportError, match="planned was F32"), SafetensorsStream(tmp_path / "f", PLAN, {}) as stream:
        stream.write("a", [tensors["a"].half()])
    with pytest.raises(ExportError, match="a has 40 bytes"), SafetensorsStream(tmp_path / "f", PLAN, {}) as stream:
        stream.write("a", [tensors["a"][:2]])


def test_a_file_that_lacks_a_planned_tensor_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match="without the tensor b"),
        SafetensorsStream(tmp_path / "f", PLAN, {}) as stream,
    ):
        stream.write("a", [_tensors()["a"]])


def test_an_unsupported_dtype_is_named() -> None:
    with pytest.raises(ExportError, match="float64"):
        dtype_name(torch.float64)
