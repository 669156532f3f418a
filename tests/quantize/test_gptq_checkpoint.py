"""Integers, scales and zero points keep every bit on the way to the GPTQ layout and back."""

from __future__ import annotations

import pytest
import torch

from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.quantize.gptq_checkpoint import (
    GptqFormat,
    GptqLinear,
    LinearLayout,
    from_gptq,
    group_numbers,
    linear_layout,
    pack_words,
    pack_zeros,
    to_gptq,
    unpack_words,
)
from valley2_edge.quantize.rtn import QuantizedRows


def _random_rows(rows: int, columns: int, bits: int, group_size: int, *, zeros: bool, seed: int = 0) -> QuantizedRows:
    generator = torch.Generator().manual_seed(seed)
    groups = columns // group_size
    highest = 2**bits
    return QuantizedRows(
        values=torch.randint(0, highest, (rows, columns), generator=generator, dtype=torch.uint8),
        scales=torch.randn(rows, groups, generator=generator).to(torch.float16),  # signs of both kinds
        zeros=torch.randint(0, highest, (rows, groups), generator=generator, dtype=torch.uint8) if zeros else None,
    )


def _shapes(linear: GptqLinear) -> dict[str, tuple[int, ...]]:
    parts = {"qweight": linear.qweight, "qzeros": linear.qzeros, "scales": linear.scales, "g_idx": linear.g_idx}
    return {name: tuple(tensor.shape) for name, tensor in parts.items() if tensor is not None}


def _with_zeros(linear: GptqLinear, qzeros: torch.Tensor) -> GptqLinear:
    return GptqLinear(linear.qweight, qzeros, linear.scales, linear.g_idx)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_first_value_lies_in_the_lowest_bits(bits: int) -> None:
    values = torch.tensor([[9], [2], [15], [1], [0], [7], [8], [12]], dtype=torch.uint8)
    words = pack_words(values, bits)
    expected = [0xC8701F29] if bits == 4 else [0x010F0209, 0x0C080700]
    assert [word & 0xFFFFFFFF for word in words[:, 0].tolist()] == expected
    assert torch.equal(unpack_words(words, bits), values)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("rows", [8, 72])
def test_every_bit_comes_back(bits: int, group_size: int, rows: int) -> None:
    original = _random_rows(rows, 384, bits, group_size, zeros=True)
    linear = to_gptq(original, bits, group_size, "layer", "gptq_v2")
    layout = linear_layout("layer", _shapes(linear), rows, 384)
    assert layout == LinearLayout(bits, group_size)
    back = from_gptq(linear, layout, "layer", "gptq_v2")
    assert torch.equal(back.values, original.values)
    assert torch.equal(back.scales.view(torch.int16), original.scales.view(torch.int16))
    assert back.zeros is not None and original.zeros is not None and torch.equal(back.zeros, original.zeros)


@pytest.mark.parametrize(("bits", "stored", "zero"), [(4, 0x77777777, 8), (8, 0x7F7F7F7F, 128)])
def test_symmetric_layers_have_the_middle_as_zero_point(bits: int, stored: int, zero: int) -> None:
    linear = to_gptq(_random_rows(16, 64, bits, 32, zeros=False), bits, 32, "layer", "gptq")
    assert set(linear.qzeros.flatten().tolist()) == {stored}
    back = from_gptq(linear, LinearLayout(bits, 32), "layer", "gptq")
    assert back.zeros is not None and bool((back.zeros == zero).all())


def test_the_tensors_have_the_shapes_of_the_layout() -> None:
    linear = to_gptq(_random_rows(24, 96, 4, 32, zeros=True), 4, 32, "layer", "gptq_v2")
    assert _shapes(linear) == {"qweight": (12, 24), "qzeros": (3, 3), "scales": (3, 24), "g_idx": (96,)}
    assert (linear.qweight.dtype, linear.scales.dtype) == (torch.int32, torch.float16)
    assert linear.g_idx is not None and linear.g_idx.tolist() == [0] * 32 + [1] * 32 + [2] * 32


def test_zero_points_of_version_1_are_stored_less_one() -> None:
    zeros = torch.arange(1, 9, dtype=torch.uint8)[:, None]
    assert pack_zeros(zeros, 4, "layer", "gptq").tolist() == [[0x76543210]]
    assert pack_zeros(zeros, 4, "layer", "gptq_v2").item() & 0xFFFFFFFF == 0x87654321


def test_version_1_refuses_the_zero_point_0() -> None:
    zeros = torch.tensor([[1], [2], [0], [4], [5], [6], [7], [8]], dtype=torch.uint8)
    with pytest.raises(ExportError, match=r"layer has a zero point 0, .* choose gptq_v2"):
        pack_zeros(zeros, 4, "layer", "gptq")


def test_the_open_zero_point_of_version_1_is_read_as_gptqmodel_wrote_it() -> None:
    zeros = torch.tensor([5, 0, 0, 3, 15, 1, 0, 9], dtype=torch.uint8)[:, None]
    word = pack_zeros(zeros, 4, "layer", "gptq_v2").to(torch.int64) & 0xFFFFFFFF
    less_ones = ((word - 0x11111111) & 0xFFFFFFFF).to(torch.uint32).view(torch.int32)  # one subtraction, with borrows
    linear = _with_zeros(to_gptq(_random_rows(8, 32, 4, 32, zeros=False), 4, 32, "layer", "gptq"), less_ones)
    back = from_gptq(linear, LinearLayout(4, 32), "layer", "gptq", carries=True)
    assert back.zeros is not None and torch.equal(back.zeros, zeros)
    with pytest.raises(ExportError, match=r"layer\.qzeros .* \(0 or 16\): save the decoder in the format gptq_v2"):
        from_gptq(linear, LinearLayout(4, 32), "layer", "gptq")


def test_groups_wider_than_a_bundles_are_cut() -> None:
    original = _random_rows(8, 768, 4, 256, zeros=True)
    linear = to_gptq(original, 4, 256, "layer", "gptq_v2")
    layout = linear_layout("layer", _shapes(linear), 8, 768)
    assert (layout.stored_group_size, layout.group_size) == (256, 128)
    back = from_gptq(linear, layout, "layer", "gptq_v2")
    assert torch.equal(back.scales, original.scales.repeat_interleave(2, dim=1))


def test_one_group_for_all_columns_is_cut_as_wide_as_it_divides() -> None:
    assert LinearLayout(4, 3584).group_size == 128
    assert LinearLayout(4, 192).group_size == 64
    assert LinearLayout(4, 96).group_size == 32


@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
def test_columns_out_of_order_are_refused(checkpoint_format: GptqFormat) -> None:
    linear = to_gptq(_random_rows(8, 64, 4, 32, zeros=False), 4, 32, "model.layers.0.q", checkpoint_format)
    shuffled = group_numbers(64, 32)[torch.randperm(64, generator=torch.Generator().manual_seed(3))]
    moved = GptqLinear(linear.qweight, linear.qzeros, linear.scales, shuffled)
    with pytest.raises(ExportError, match=r"model\.layers\.0\.q\.g_idx .*without desc_act"):
        from_gptq(moved, LinearLayout(4, 32), "model.layers.0.q", checkpoint_format)


def test_a_group_that_is_not_there_is_damage() -> None:
    linear = to_gptq(_random_rows(8, 64, 4, 32, zeros=False), 4, 32, "layer", "gptq")
    moved = GptqLinear(linear.qweight, linear.qzeros, linear.scales, group_numbers(64, 16))
    with pytest.raises(CheckpointError, match=r"layer\.g_idx names a group that the layer does not have"):
        from_gptq(moved, LinearLayout(4, 32), "layer", "gptq")


def test_groups_in_order_need_no_g_idx() -> None:
    linear = to_gptq(_random_rows(8, 64, 4, 32, zeros=False), 4, 32, "layer", "gptq")
    without = GptqLinear(linear.qweight, linear.qzeros, linear.scales, None)
    expected = from_gptq(linear, LinearLayout(4, 32), "layer", "gptq")
    assert torch.equal(from_gptq(without, LinearLayout(4, 32), "layer", "gptq").values, expected.values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_damage(value: float) -> None:
    linear = to_gptq(_random_rows(8, 64, 4, 32, zeros=False), 4, 32, "layer", "gptq")
    linear.scales[1, 3] = value
    with pytest.raises(CheckpointError, match=r"layer\.scales holds a NaN or an infinity"):
        from_gptq(linear, LinearLayout(4, 32), "layer", "gptq")


def test_scales_beyond_fp16_are_refused() -> None:
    linear = to_gptq(_random_rows(8, 64, 4, 32, zeros=False), 4, 32, "layer", "gptq")
    wide = GptqLinear(linear.qweight, linear.qzeros, linear.scales.float() + 1e6, linear.g_idx)
    with pytest.raises(ExportError, match=r"layer\.scales .* too large for fp16"):
        from_gptq(wide, LinearLayout(4, 32), "layer", "gptq")


def test_rows_that_do_not_fill_a_word_are_refused() -> None:
    with pytest.raises(ExportError, match="layer has 12 rows: the GPTQ layout needs a multiple of 8"):
        to_gptq(_random_rows(12, 64, 4, 32, zeros=False), 4, 32, "layer", "gptq")


GOOD = {"qweight": (8, 16), "qzeros": (2, 2), "scales": (2, 16), "g_idx": (64,)}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"qweight": (8, 24)}, CheckpointError, "do not make a matrix of 16 rows and 64 columns"),
        ({"qweight": (9, 16)}, CheckpointError, "do not make a matrix"),
        ({"qweight": (8,)}, CheckpointError, "do not make a matrix"),
        ({"scales": (0, 16)}, CheckpointError, "do not make a matrix"),
        ({"qzeros": (2, 3)}, CheckpointError, r"layer\.qzeros has shape \[2, 3\]; \[2, 2\] is expected"),
        ({"scales": (2, 8)}, CheckpointError, r"layer\.scales has shape"),
        ({"g_idx": (32,)}, CheckpointError, r"layer\.g_idx has shape"),
        ({"qweight": (6, 16)}, ExportError, r"layer\.qweight has 3 bits a weight"),
        ({"qzeros": (4, 2), "scales": (4, 16)}, ExportError, "layer has groups of 16 columns"),
    ],
)
def test_shapes_of_another_layer_are_refused(
    changed: dict[str, tuple[int, ...]], error: type[Exception], message: str
) -> None:
    assert linear_layout("layer", GOOD, 16, 64) == LinearLayout(4, 32)
    with pytest.raises(error, match=message):
        linear_layout("layer", {**GOOD, **changed}, 16, 64)
