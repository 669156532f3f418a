"""The panel layout, byte by byte against the definition written as plain loops."""

from __future__ import annotations

import pytest
import torch

from valley2_edge.quantize import packing

ROWS = [1, 63, 64, 65, 130]


def _random_bytes(rows: int, columns: int, low: int, high: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return torch.randint(low, high + 1, (rows, columns), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("rows", ROWS)
def test_int4_byte_holds_columns_j_and_j_plus_4_of_its_block(rows: int) -> None:
    columns = 40
    values = _random_bytes(rows, columns, 0, 15)
    expected = bytearray()
    for panel in range(-(-rows // 64)):
        for block in range(columns // 8):
            for row in range(panel * 64, panel * 64 + 64):
                for j in range(4):
                    low = int(values[row, 8 * block + j]) if row < rows else 8
                    high = int(values[row, 8 * block + 4 + j]) if row < rows else 8
                    expected.append(low | high << 4)
    packed = packing.pack_int4(values, padding=8)
    assert packed.shape == (-(-rows // 64), columns // 8, 64, 4)
    assert packed.numpy().tobytes() == bytes(expected)


@pytest.mark.parametrize("rows", ROWS)
def test_int8_byte_holds_four_columns_side_by_side(rows: int) -> None:
    columns = 20
    values = _random_bytes(rows, columns, 1, 255)
    expected = bytearray()
    for panel in range(-(-rows // 64)):
        for block in range(columns // 4):
            for row in range(panel * 64, panel * 64 + 64):
                for j in range(4):
                    expected.append(int(values[row, 4 * block + j]) if row < rows else 128)
    packed = packing.pack_int8(values)
    assert packed.shape == (-(-rows // 64), columns // 4, 64, 4)
    assert packed.numpy().tobytes() == bytes(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_floats_lie_column_by_column_inside_a_panel(dtype: torch.dtype) -> None:
    weights = torch.randn(70, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    packed = packing.pack_floats(weights)
    assert packed.shape == (2, 5, 64)
    for panel in range(2):
        for column in range(5):
            for row in range(64):
                given = weights[panel * 64 + row, column].item() if panel * 64 + row < 70 else 0.0
                assert packed[panel, column, row].item() == given


@pytest.mark.parametrize("rows", ROWS)
def test_unpacking_gives_back_every_value(rows: int) -> None:
    nibbles = _random_bytes(rows, 64, 0, 15)
    octets = _random_bytes(rows, 64, 1, 255)
    floats = torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows))
    assert torch.equal(packing.unpack_int4(packing.pack_int4(nibbles, padding=0), rows), nibbles)
    assert torch.equal(packing.unpack_int8(packing.pack_int8(octets), rows), octets)
    assert torch.equal(packing.unpack_floats(packing.pack_floats(floats), rows), floats)
    assert torch.equal(packing.unpack_groups(packing.pack_groups(floats), rows), floats)


def test_packing_in_row_blocks_equals_packing_at_once() -> None:
    values = _random_bytes(200, 32, 0, 15)
    at_once = packing.pack_int4(values, padding=0)
    in_blocks = torch.cat([packing.pack_int4(values[:128], padding=0), packing.pack_int4(values[128:], padding=0)])
    assert torch.equal(at_once, in_blocks)
