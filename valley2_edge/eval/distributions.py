"""How the distributions of two models over the next token differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_probabilities(logits: npt.NDArray[np.float32]) -> Floats:
    """Natural logarithms of the probabilities.

    Args:
        logits: (n, vocabulary) float32.

    Returns:
        (n, vocabulary) float64.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def kl_divergences(log_a: Floats, log_b: Floats) -> Floats:
    """KL(A || B) of each position, over the whole vocabulary.

    Args:
        log_a: Logarithms of A's probabilities, (n, vocabulary).
        log_b: Logarithms of B's, (n, vocabulary).

    Returns:
        (n,) float64, in nats; at least 0, where rounding would give a little less.
    """
    result: Floats = np.maximum((np.exp(log_a) * (log_a - log_b)).sum(axis=1), 0.0)
    return result
