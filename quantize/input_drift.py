"""Measures how far the rounded layers have drifted from the unrounded model, so that the next matrix makes up for it.

The rounded matrices before a matrix W change its inputs from e to x. Plain GPTQ keeps W x; here the target is W e, what
the unrounded model computes (GPTAQ, arXiv 2504.02692, calls that asymmetric calibration). With H = mean(x x^T) and
C = mean((e - x) x^T) the weights that come nearest to it are W (I + C H^-1), and what any other weights cost beyond
these is their distance in the norm of H. So GPTQ and the descent round these weights instead of W, and are themselves
unchanged.
"""

from __future__ import annotations

import torch

from valley2_edge.errors import NumericError


class InputDrift:
    """C = sum_t w_t * (e_t - x_t) * x_t^T / sum_t w_t over the tokens t so far.

    Args:
        columns: Number of input channels of the matrix.
        name: The matrix's name, for messages.
        device: Where C lies.
    """

    def __init__(self, columns: int, name: str, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.matrix = torch.zeros(columns, columns, dtype=torch.float32, device=device)
        """C, (columns, columns) float32."""
        self._weight_total = 0.0

    def add(self, exact: torch.Tensor, inputs: torch.Tensor, token_weights: torch.Tensor) -> None:
        """Adds a batch.

        Args:
            exact: e, the inputs in the unrounded model, (tokens, columns) float32.
            inputs: x, the inputs as they are, of the same shape.
            token_weights: (tokens,) numbers from 0 up.

        Raises:
            NumericError: An exact input is a NaN or an infinity.
        """
        if not bool(torch.isfinite(exact).all()):
            raise NumericError(f"the inputs of {self.name} in the unrounded model hold a NaN or an infinity")
        total = float(token_weights.sum(dtype=torch.float64))
        if total == 0:
            return
        self._weight_total += total
        drift = (exact - inputs).mul_(token_weights.to(inputs.device, torch.float32)[:, None])
        kept = 1 - total / self._weight_total
        self.matrix.addmm_(drift.T, inputs, beta=kept, alpha=1 / self._weight_total)
