"""Reads and writes the tensors of the AutoGPTQ checkpoint layout (docs/interchange.md, "Tensors").

A linear layer of N rows (outputs) and K columns (inputs) is four tensors: `qweight` int32 (K * bits / 32, N), the first
column of a word in its lowest bits; `qzeros` int32 (groups, N * bits / 32), packed along the rows; `scales` fp16
(groups, N); and `g_idx` int32 (K), the group of every column. The format `gptq` stores zero points minus one, `gptq_v2`
as they are. The layout is that of AutoGPTQ (https://github.com/AutoGPTQ/AutoGPTQ) and GPTQModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.precisions import GROUP_SIZES
from valley2_edge.quantize.grid import INT4_ZERO, INT8_ZERO
from valley2_edge.quantize.rtn import QuantizedRows

GptqFormat = Literal["gptq", "gptq_v2"]
GPTQ_TENSORS = ("qweight", "qzeros", "scales", "g_idx")
ZERO_POINTS = {4: INT4_ZERO, 8: INT8_ZERO}
"""The zero point of a symmetric layer, by the number of bits."""

_WORD_BITS = 32


@dataclass(frozen=True)
class GptqLinear:
    """One linear layer of N rows and K columns, as a checkpoint stores it."""

    qweight: torch.Tensor
    """(K * bits / 32, N) int32."""
    qzeros: torch.Tensor
    """(groups, N * bits / 32) int32."""
    scales: torch.Tensor
    """(groups, N) float16; other tools also write bfloat16 and float32."""
    g_idx: torch.Tensor | None
    """(K,) int32; None stands for groups in the order of the columns."""


@dataclass(frozen=True)
class LinearLayout:
    """Bits and groups of a stored layer."""

    bits: int
    """4 or 8."""
    stored_group_size: int
    """Number of columns that share a scale in the checkpoint, up to all columns."""

    @property
    def group_size(self) -> int:
        """Number of columns that share a scale in a bundle: larger groups are cut and their scales repeated."""
        return max(size for size in GROUP_SIZES if self.stored_group_size % size == 0)


def pack_words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs small integers along the first axis, the first in the lowest bits.

    Args:
        values: (n, m) uint8 below 2 ** bits; n * bits a multiple of 32.
        bits: 4 or 8.

    Returns:
        (n * bits / 32, m) int32.
    """
    per_word = _WORD_BITS // bits
    words = torch.zeros(values.shape[0] // per_word, values.shape[1], dtype=torch.int32)
    for index in range(per_word):
        words |= values[index::per_word].to(torch.int32) << (bits * index)
    return words


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `pack_words`.

    Args:
        words: (w, m) int32, or the same words without a sign as int64.
        bits: 4 or 8.

    Returns:
        (w * 32 / bits, m) uint8.
    """
    per_word = _WORD_BITS // bits
    values = torch.empty(words.shape[0] * per_word, words.shape[1], dtype=torch.uint8)
    for index in range(per_word):
        values[index::per_word] = ((words >> (bits * index)) & (2**bits - 1)).to(torch.uint8)
    return values


def linear_layout(name: str, shapes: Mapping[str, tuple[int, ...]], rows: int, columns: int) -> LinearLayout:
    """Reads bits and group size off the shapes of a layer's tensors, and checks that the shapes agree.

    Args:
        name: The layer's name, for messages.
        shapes: Shapes of `qweight`, `qzeros`, `scales` and, where it exists, `g_idx`.
        rows: Number of outputs of the layer.
        columns: Number of inputs of the layer.

    Raises:
        CheckpointError: The shapes do not fit one another or the layer.
        ExportError: The bits or the groups are not supported.
    """
    qweight, scales = shapes["qweight"], shapes["scales"]
    bits = qweight[0] * _WORD_BITS // columns if len(qweight) == 2 else 0
    if qweight != (columns * bits // _WORD_BITS, rows) or len(scales) != 2 or not scales[0] or columns % scales[0]:
        raise CheckpointError(
            f"{name}.qweight of shape {list(qweight)} and {name}.scales of shape {list(scales)} do not make a matrix "
            f"of {rows} rows and {columns} columns: the model has other sizes"
        )
    if bits not in ZERO_POINTS:
        raise ExportError(f"{name}.qweight has {bits} bits a weight: a bundle holds 4 or 8")
    group_size = columns // scales[0]
    expected = {
        "qzeros": (scales[0], rows * bits // _WORD_BITS),
        "scales": (scales[0], rows),
        "g_idx": (columns,),
    }
    for part, shape in expected.items():
        if part in shapes and shapes[part] != shape:
            raise CheckpointError(f"{name}.{part} has shape {list(shapes[part])}; {list(shape)} is expected")
    if group_size % GROUP_SIZES[0]:
        raise ExportError(
            f"{name} has groups of {group_size} columns: a bundle holds groups of 32, 64, 128 or multiples"
        )
    return LinearLayout(bits, group_size)


@dataclass(frozen=True)
class Groups:
    """Scales and zero points of a layer, in groups as wide as a bundle has them."""

    scales: torch.Tensor
    """(rows, groups) float16."""
    zeros: torch.Tensor
    """(rows, groups) uint8, also where all are equal."""


def read_groups(
    linear: GptqLinear, layout: LinearLayout, name: str, checkpoint_format: GptqFormat, *, carries: bool = False
) -> Groups:
    """Reads the scales and zero points of a stored layer.

    Args:
        linear: The layer's tensors; `qweight` is not looked at.
        layout: What `linear_layout` returned.
        name: The layer's name, for messages.
        checkpoint_format: How the layer's zero points are stored.
        carries: Whether a word of `gptq` zero points was made by one subtraction of 0x11111111, as GPTQModel does, so
            that a zero point 0 borrows from the next; otherwise a zero point 0 cannot be told from 16 and is refused.

    Raises:
        CheckpointError: A scale is not finite, or a group number is outside.
        ExportError: The columns of a group are not neighbours, or the zero points are ambiguous.
    """
    _check_groups(linear.g_idx, layout, name)
    if not torch.isfinite(linear.scales).all():
        raise CheckpointError(f"{name}.scales holds a NaN or an infinity: the checkpoint is damaged")
    scales = linear.scales.to(torch.float16)
    if not torch.isfinite(scales).all():
        raise ExportError(f"{name}.scales holds a scale too large for fp16")
    zeros = _unpack_zeros(linear.qzeros, layout.bits, name, checkpoint_format, carries)
    repeats = layout.stored_group_size // layout.group_size
    return Groups(
        scales.T.contiguous().repeat_interleave(repeats, dim=1),
        zeros.repeat_interleave(repeats, dim=1),
    )


def from_gptq(
    linear: GptqLinear, layout: LinearLayout, name: str, checkpoint_format: GptqFormat, *, carries: bool = False
) -> QuantizedRows:
    """Reads a stored layer as quantised rows.

    Args:
        linear: The layer's tensors.
        layout: What `linear_layout` returned.
        name: The layer's name, for messages.
        checkpoint_format: How the layer's zero points are stored.
        carries: As `read_groups` takes it.

    Returns:
        Values, scales and zero points; groups as wide as `layout.group_size` says; zeros also where all are equal.

    Raises:
        CheckpointError: A scale is not finite, or a group number is outside.
        ExportError: The columns of a group are not neighbours, or the zero points are ambiguous.
    """
    groups = read_groups(linear, layout, name, checkpoint_format, carries=carries)
    return QuantizedRows(unpack_words(linear.qweight, layout.bits).T.contiguous(), groups.scales, groups.zeros)


def to_gptq(rows: QuantizedRows, bits: int, group_size: int, name: str, checkpoint_format: GptqFormat) -> GptqLinear:
    """Stores rows as a layer of a checkpoint.

    Args:
        rows: (rows, columns) integers with their scales; rows a multiple of 32 / bits.
        bits: 4 or 8.
        group_size: Number of columns that share a scale.
        name: The layer's name, for messages.
        checkpoint_format: How zero points are stored.

    Raises:
        ExportError: The rows do not fill whole words, or a zero point is 0 and the format is `gptq`.
    """
    count, columns = rows.values.shape
    if count * bits % _WORD_BITS:
        raise ExportError(f"{name} has {count} rows: the GPTQ layout needs a multiple of {_WORD_BITS // bits}")
    zeros = rows.zeros
    if zeros is None:
        zeros = torch.full(rows.scales.shape, ZERO_POINTS[bits], dtype=torch.uint8)
    return GptqLinear(
        qweight=pack_words(rows.values.T, bits),
        qzeros=pack_zeros(zeros, bits, name, checkpoint_format),
        scales=rows.scales.T.contiguous(),
        g_idx=group_numbers(columns, group_size),
    )


def pack_zeros(zeros: torch.Tensor, bits: int, name: str, checkpoint_format: GptqFormat) -> torch.Tensor:
    """Packs zero points as `qzeros`.

    Args:
        zeros: (rows, groups) uint8; rows a multiple of 32 / bits.
        bits: 4 or 8.
        name: The layer's name, for messages.
        checkpoint_format: How zero points are stored.

    Returns:
        (groups, rows * bits / 32) int32.

    Raises:
        ExportError: A zero point is 0 and the format is `gptq`.
    """
    if checkpoint_format == "gptq":
        if not zeros.all():
            raise ExportError(f"{name} has a zero point 0, which the format gptq cannot express: choose gptq_v2")
        zeros = zeros - 1
    return pack_words(zeros, bits).T.contiguous()


def group_numbers(columns: int, group_size: int) -> torch.Tensor:
    """Makes the `g_idx` of groups in the order of the columns.

    Args:
        columns: Number of columns.
        group_size: Number of columns that share a scale.

    Returns:
        (columns,) int32.
    """
    return torch.arange(columns, dtype=torch.int32) // group_size


def _check_groups(g_idx: torch.Tensor | None, layout: LinearLayout, name: str) -> None:
    if g_idx is None:
        return
    in_order = torch.arange(g_idx.shape[0]) // layout.stored_group_size
    if torch.equal(g_idx.to(torch.int64), in_order):
        return
    if int(g_idx.min()) < 0 or int(g_idx.max()) > int(in_order[-1]):
        raise CheckpointError(f"{name}.g_idx names a group that the layer does not have: the checkpoint is damaged")
    raise ExportError(
        f"{name}.g_idx puts columns that are not neighbours into one group, which a bundle cannot hold: quantize the "
        "decoder again without desc_act, or with static groups"
    )


def _unpack_zeros(
    qzeros: torch.Tensor, bits: int, name: str, checkpoint_format: GptqFormat, carries: bool
) -> torch.Tensor:
    """(rows, groups) uint8."""
    words = qzeros.T  # (rows * bits / 32, groups)
    if checkpoint_format == "gptq_v2":
        return unpack_words(words, bits)
    highest = 2**bits - 1
    if not carries and bool((unpack_words(words, bits) == highest).any()):
        raise ExportError(
            f"{name}.qzeros holds a zero point that the format gptq leaves open (0 or {highest + 1}): save the decoder "
            "in the format gptq_v2"
        )
    ones = sum(1 << shift for shift in range(0, _WORD_BITS, bits))
    return unpack_words((words.to(torch.int64) + ones) & (2**_WORD_BITS - 1), bits)
