"""Markdown tables of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from figures import Figures
from results import perplexity_ratio, window_mean

from valley2_edge.errors import InputError
from valley2_edge.eval.intervals import Estimate


def results_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each variant, the smallest divergence first; intervals of 95 % over windows."""
    lines = [
        "| variant | columns | bits a weight of the layers | mean KL | same top token | p99 KL | perplexity ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: float(row["kl"]["value"])):
        kl, same_top, p99, ratio = (
            Estimate(**row[key]) for key in ("kl", "same_top", "p99_kl", "perplexity_ratio")
        )  # fmt: skip
        cells = [row["name"], row["columns"], f"{row['bits']:.3f}", _cell(kl, ".4f"), _cell(same_top, ".1%")]
        lines.append("| " + " | ".join(map(str, [*cells, _cell(p99, ".3f"), _cell(ratio, ".4f")])) + " |")
    return lines


def pairs_table(pairs: Sequence[tuple[str, str]], figures: dict[str, Figures]) -> list[str]:
    """One line for each pair: differences on the same windows, with intervals of 95 % over windows.

    Raises:
        InputError: A variant was not measured, or two were on different windows.
    """
    lines = [
        "| pair | difference of mean KL | ratio of mean KL | difference of same top | ratio of perplexities |",
        "| --- | --- | --- | --- | --- |",
    ]
    for first, second in pairs:
        for name in (first, second):
            if name not in figures:
                raise InputError(f"Variant {name} of the pair {first}:{second} is not among those that are measured.")
        ours, theirs = figures[first], figures[second]
        if not np.array_equal(ours.windows, theirs.windows):
            raise InputError(f"{first} and {second} were measured on different windows.")
        kl = window_mean(ours.kl - theirs.kl)
        same_top = window_mean(ours.same_top.astype(float) - theirs.same_top)
        cells = [f"{first} against {second}", _cell(kl, "+.4f"), f"{ours.kl.mean() / theirs.kl.mean():.2f}"]
        ratio = perplexity_ratio(ours.surprise - theirs.surprise)
        lines.append("| " + " | ".join([*cells, _cell(same_top, "+.1%"), _cell(ratio, ".4f")]) + " |")
    return lines


def _cell(estimate: Estimate, style: str) -> str:
    return f"{estimate.value:{style}} ({estimate.low:{style}} to {estimate.high:{style}})"
