"""Remembers what was measured, one line of JSON for each variant."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures

from valley2_edge.eval.intervals import Estimate, bootstrap_ratio

_QUANTILE = 0.99
_RESAMPLES = 300


@dataclass(frozen=True)
class Key:
    """What makes a result the same one."""

    variant: str
    """The variant's options, as text."""
    windows_sha256: str
    """SHA-256 of the file with all windows."""
    windows: tuple[int, ...]


def summary(figures: Figures) -> dict[str, Any]:
    """The figures of the table: each with its interval of 95 %, by a bootstrap over windows."""
    ratio = perplexity_ratio(figures.surprise - figures.reference_surprise)
    return {
        "kl": asdict(window_mean(figures.kl)),
        "same_top": asdict(window_mean(figures.same_top)),
        "p99_kl": asdict(high_kl(figures)),
        "largest_kl": float(figures.kl.max()),
        "perplexity": float(np.exp(figures.surprise.mean())),
        "reference_perplexity": float(np.exp(figures.reference_surprise.mean())),
        "perplexity_ratio": asdict(ratio),
    }


def window_mean(values: Any) -> Estimate:
    """The mean of (windows, positions), with the interval over windows."""
    return bootstrap_ratio(values.mean(axis=1), np.ones(len(values)))


def perplexity_ratio(differences: Any) -> Estimate:
    """The ratio of two perplexities from differences of surprise, (windows, positions)."""
    mean = window_mean(differences)
    return Estimate(*(float(np.exp(value)) for value in (mean.value, mean.low, mean.high)))


def high_kl(figures: Figures) -> Estimate:
    """The 99th percentile of the KL divergence over all positions, with the interval over windows."""
    drawn = np.random.default_rng(0).integers(0, len(figures.kl), (_RESAMPLES, len(figures.kl)))
    found = [np.quantile(figures.kl[windows], _QUANTILE) for windows in drawn]
    low, high = np.quantile(found, (0.025, 0.975))
    return Estimate(float(np.quantile(figures.kl, _QUANTILE)), float(low), float(high))


class Results:
    """The lines of results.jsonl; the last line of a name counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self._rows: dict[str, dict[str, Any]] = {row["name"]: row for row in map(json.loads, lines)}

    def find(self, name: str, key: Key) -> dict[str, Any] | None:
        """The line of a variant, unless something else was measured under this name."""
        row = self._rows.get(name)
        return row if row is not None and row["key"] == json.loads(json.dumps(asdict(key))) else None

    def add(self, name: str, key: Key, content: dict[str, Any]) -> dict[str, Any]:
        """Appends a line and returns it."""
        row = {"name": name, "key": asdict(key), **content}
        self._rows[name] = row
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        return row
