"""Packs the decoder's matrices into panels, and unpacks them (docs/bundle.md, "Decoder files").

Rows are grouped in panels of 64; inside a panel the columns run outermost, so that a kernel streams a panel once and
keeps 64 sums in registers. The last panel is padded with rows whose value is the zero point and whose scale is 0.
"""

from __future__ import annotations

import torch

from valley2_edge.quantize.grid import INT8_ZERO

PANEL = 64
"""Number of rows in a panel; the core has the same number in matrix.hpp."""


def panel_count(rows: int) -> int:
    """Number of panels that hold some rows.

    Args:
        rows: Number of rows.
    """
    return -(-rows // PANEL)


def pack_floats(weights: torch.Tensor) -> torch.Tensor:
    """Packs rows of fp32 or fp16 weights into panels.

    Args:
        weights: (rows, columns) float32 or float16.

    Returns:
        (panels, columns, 64) of the same dtype; row p * 64 + r, column k lies at (p, k, r).
    """
    return _as_panels(weights, 0).transpose(1, 2).contiguous()


def unpack_floats(panels: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse of `pack_floats` and of `pack_groups`.

    Args:
        panels: (panels, columns, 64).
        rows: Number of rows without the padding.

    Returns:
        (rows, columns) of the same dtype.
    """
    panel_total, columns, _ = panels.shape
    return panels.transpose(1, 2).reshape(panel_total * PANEL, columns)[:rows]


def pack_groups(groups: torch.Tensor) -> torch.Tensor:
    """Packs scales or zero points into panels; padded rows hold 0.

    Args:
        groups: (rows, groups) float16 or uint8.

    Returns:
        (panels, groups, 64) of the same dtype.
    """
    return pack_floats(groups)


def unpack_groups(panels: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse of `pack_groups`.

    Args:
        panels: (panels, groups, 64).
        rows: Number of rows without the padding.

    Returns:
        (rows, groups) of the same dtype.
    """
    return unpack_floats(panels, rows)


def pack_int8(values: torch.Tensor) -> torch.Tensor:
    """Packs int8 rows into panels with four columns side by side, as a four-way dot product takes them.

    Args:
        values: (rows, columns) uint8, q + 128; columns a multiple of 4.

    Returns:
        (panels, columns / 4, 64, 4) uint8; padded rows hold 128, the zero point.
    """
    return _interleave(_as_panels(values, INT8_ZERO))


def unpack_int8(panels: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse of `pack_int8`.

    Args:
        panels: (panels, columns / 4, 64, 4) uint8.
        rows: Number of rows without the padding.

    Returns:
        (rows, columns) uint8.
    """
    return _deinterleave(panels).reshape(panels.shape[0] * PANEL, -1)[:rows]


def pack_int4(values: torch.Tensor, padding: int) -> torch.Tensor:
    """Packs int4 rows into panels with eight columns in four bytes.

    Args:
        values: (rows, columns) uint8, 0..15; columns a multiple of 8.
        padding: The value of the padded rows, which is their zero point.

    Returns:
        (panels, columns / 8, 64, 4) uint8; byte (p, b, r, j) holds column 8b + j in its low half and
        column 8b + 4 + j in its high half.
    """
    panels = _as_panels(values, padding)  # (panels, 64, columns)
    panel_total, _, columns = panels.shape
    halves = panels.reshape(panel_total, PANEL, columns // 8, 2, 4)
    return _interleave((halves[..., 0, :] | (halves[..., 1, :] << 4)).reshape(panel_total, PANEL, columns // 2))


def unpack_int4(panels: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse of `pack_int4`.

    Args:
        panels: (panels, columns / 8, 64, 4) uint8.
        rows: Number of rows without the padding.

    Returns:
        (rows, columns) uint8, 0..15.
    """
    panel_total, blocks, _, _ = panels.shape
    pairs = _deinterleave(panels).reshape(panel_total * PANEL, blocks, 4)[:rows]  # (rows, columns / 8, 4)
    return torch.stack((pairs & 15, pairs >> 4), dim=2).reshape(rows, blocks * 8)


def _as_panels(values: torch.Tensor, padding: int) -> torch.Tensor:
    """(rows, columns) to (panels, 64, columns), the missing rows filled with `padding`."""
    rows, columns = values.shape
    missing = panel_count(rows) * PANEL - rows
    if missing:
        values = torch.cat((values, torch.full((missing, columns), padding, dtype=values.dtype)))
    return values.reshape(-1, PANEL, columns)


def _interleave(panels: torch.Tensor) -> torch.Tensor:
    """(panels, 64, bytes) to (panels, bytes / 4, 64, 4): four bytes move as one word, which is much faster."""
    words = panels.contiguous().view(torch.int32)  # (panels, 64, bytes / 4)
    return words.transpose(1, 2).contiguous().view(torch.uint8).reshape(panels.shape[0], -1, PANEL, 4)


def _deinterleave(panels: torch.Tensor) -> torch.Tensor:
    """(panels, words, 64, 4) to (panels, 64, words * 4)."""
    words = panels.contiguous().view(torch.int32)[..., 0]  # (panels, words, 64)
    return words.transpose(1, 2).contiguous().view(torch.uint8)
