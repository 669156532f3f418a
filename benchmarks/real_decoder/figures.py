"""What a rounded decoder's logits are worth, position by position, beside the unrounded one's log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_BLOCK_ROWS = 32


@dataclass(frozen=True)
class Figures:
    """One variant on some windows; every array is (windows, 511)."""

    windows: npt.NDArray[np.int64]
    """Indices of the windows, (windows,)."""
    kl: Doubles
    """KL divergence from the reference, in nats."""
    same_top: npt.NDArray[np.bool_]
    """Whether the likeliest token is the reference's."""
    surprise: Doubles
    """Negative log-probability of the text's own next token."""
    reference_surprise: Doubles

    def save(self, path: Path) -> None:
        """Writes the figures, which appear whole or not at all; the folder exists."""
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, **vars(self))
        unfinished.replace(path)


def load_figures(path: Path) -> Figures:
    """Reads what `Figures.save` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return Figures(**archive)


def measure_windows(
    run: Callable[[npt.NDArray[np.int32]], Floats],
    windows: Sequence[int],
    ids: npt.NDArray[np.int32],
    reference: Floats,
    on_window: Callable[[int], None] = lambda window: None,
) -> Figures:
    """Runs a decoder over windows and compares each with the reference.

    Args:
        run: Gets the window's ids without the last, (511,), and returns logits, (511, vocabulary).
        windows: Indices of the windows.
        ids: All windows, (n, 512).
        reference: Log-probabilities, (n, 511, vocabulary).
        on_window: Called with the index of each finished window.

    Raises:
        ValueError: A logit is no finite number.
    """
    rows = []
    for window in windows:
        logits = run(ids[window, :-1])
        rows.append(compare(logits, reference[window], ids[window, 1:]))
        on_window(window)
    kl, same_top, surprise, reference_surprise = (np.array(column) for column in zip(*rows, strict=True))
    return Figures(np.array(windows, np.int64), kl, same_top, surprise, reference_surprise)


def compare(
    logits: Floats, log_probabilities: Floats, next_ids: npt.NDArray[np.int32]
) -> tuple[Doubles, npt.NDArray[np.bool_], Doubles, Doubles]:
    """KL divergence, same likeliest token, and both surprises at each position.

    Args:
        logits: (positions, vocabulary).
        log_probabilities: The reference's, of the same shape.
        next_ids: The text's own next token, (positions,).

    Raises:
        ValueError: A logit is no finite number.
    """
    parts = []
    for first in range(0, len(logits), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        parts.append(_compare_rows(logits[block], log_probabilities[block], next_ids[block]))
    kl, same_top, surprise, reference_surprise = (np.concatenate(column) for column in zip(*parts, strict=True))
    return kl, same_top, surprise, reference_surprise


def _compare_rows(
    logits: Floats, log_probabilities: Floats, next_ids: npt.NDArray[np.int32]
) -> tuple[Doubles, npt.NDArray[np.bool_], Doubles, Doubles]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=-1, dtype=np.float64))  # (rows,)
    if not np.isfinite(total).all():
        raise ValueError("a logit is NaN or infinite")
    # Sums in float64: those in float32 are wrong by up to 0.002 with 49,152 terms.
    weighted = np.exp(log_probabilities) * (log_probabilities - shifted)
    kl = weighted.sum(axis=-1, dtype=np.float64) + total
    same_top = logits.argmax(axis=-1) == log_probabilities.argmax(axis=-1)
    positions = np.arange(len(logits))
    surprise = total - shifted[positions, next_ids].astype(np.float64)
    return kl, same_top, surprise, -log_probabilities[positions, next_ids].astype(np.float64)
