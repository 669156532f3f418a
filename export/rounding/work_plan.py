"""Counts the multiplications that rounding a decoder takes, by kind of work."""

from __future__ import annotations

from valley2_edge.config import DecoderConfig
from valley2_edge.export.decoder.layers import split_parts


def planned_work(
    config: DecoderConfig, tokens: int, *, follows_unrounded: bool, keeps_gated: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Counts multiplications, or a fixed multiple of them for kinds that do not depend on the tokens.

    Args:
        config: The decoder's sizes.
        tokens: Number of rows of the calibration set.
        follows_unrounded: Whether the unrounded layers run as well.
        keeps_gated: Whether the inputs of down are kept, so that gate_up is computed once and not twice.

    Returns:
        The work of all layers, and the work of lm_head; by the kinds of the work meter: forward (the rounded layers),
        exact (the unrounded ones), hessian (moments of inputs), factor and round.
    """
    layers, head = split_parts(config)
    kinds = ("forward", "hessian", "factor", "round", *(("exact",) if follows_unrounded else ()))
    work = dict.fromkeys(kinds, 0.0)
    for parts in layers:
        for matrix in parts.matrices:
            size, reads = float(matrix.rows * matrix.columns), matrix in (parts.qkv, parts.gate_up)
            work["forward"] += size * tokens * (2 if matrix is parts.gate_up and not keeps_gated else 1)
            work["hessian"] += float(matrix.columns) ** 2 * tokens
            work["factor"] += float(matrix.columns) ** 3
            work["round"] += size * matrix.columns
            if follows_unrounded:
                work["exact"] += size * tokens
                work["hessian"] += 2.0 * float(matrix.columns) ** 2 * tokens if reads else 0.0
    columns, rows = head.lm_head.columns, head.lm_head.rows
    return work, {"factor": float(columns) ** 3, "round": float(columns) ** 2 * rows}
