"""Computes what memory rounding needs, and says before any work when there is less."""

from __future__ import annotations

import os

import torch

from valley2_edge.byte_count import format_bytes
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import BudgetError
from valley2_edge.export.decoder.layers import MLP_ROWS
from valley2_edge.quantize.factor import factor_dtype

BLOCK_ROWS = 1024
"""Number of rows of a matrix that are rounded at a time."""


def machine_bytes() -> int | None:
    """Memory of the whole machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows, and systems without these names
        return None


def check_memory(needed_bytes: int, budget_bytes: int) -> None:
    """Refuses a rounding that does not fit.

    Args:
        needed_bytes: Memory that the process takes for the largest matrix.
        budget_bytes: Memory that it may take.

    Raises:
        BudgetError: It is more than it may take, or than the machine has.
    """
    machine = machine_bytes()
    if needed_bytes <= budget_bytes and (machine is None or needed_bytes <= machine):
        return
    advice = "choose --method rtn, which works with less"
    if needed_bytes > budget_bytes:
        limit, advice = f"{format_bytes(budget_bytes)} of --memory", f"raise it, or {advice}"
    else:
        limit = f"{format_bytes(machine or 0)} of this machine"
    raise BudgetError(
        f"rounding the largest matrix takes {format_bytes(needed_bytes)} of memory, more than the {limit}: {advice}"
    )


def working_bytes(config: DecoderConfig, pack_rows: int, block_rows: int = BLOCK_ROWS) -> int:
    """Memory in bytes that the largest step of a layer takes, besides the activations and the process itself.

    Args:
        config: The decoder's sizes.
        pack_rows: Number of rows of the longest pack.
        block_rows: Number of rows of a matrix that are rounded at a time.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    kv_rows = 2 * config.num_key_value_heads * config.head_size
    gate_up, down = 2 * wide * hidden * 4, wide * hidden * 4
    attention = (2 * hidden + kv_rows) * hidden * 4
    turned = down + wide * hidden * 2  # down in another basis, and the checkpoint's own for a moment
    rows = 4 * pack_rows * (8 * hidden + 2 * kv_rows) + 4 * min(pack_rows, MLP_ROWS) * 5 * wide
    solving = max(
        _solver_bytes(hidden, block_rows) + gate_up, _solver_bytes(wide, block_rows) + gate_up + down + turned
    )
    exact = attention + gate_up + down + max(turned, rows)
    return max(solving, gate_up + 4 * wide * wide + rows, exact)


def _solver_bytes(columns: int, block_rows: int) -> int:
    """Memory for a Hessian, its factor (for a moment in two precisions) and the rows that are rounded."""
    factor = 12 if factor_dtype(columns) == torch.float64 else 4
    return columns * columns * (4 + factor) + 25 * block_rows * columns
