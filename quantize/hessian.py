"""Accumulates the second moment of a matrix's inputs over a calibration set, which GPTQ calls the Hessian."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from valley2_edge.errors import ExportError, NumericError

_PANEL = 2048  # columns of a product; what lies above the diagonal is copied instead of computed


class Hessian:
    """H = sum_t w_t * x_t * x_t^T / sum_t w_t over the tokens t so far, with inputs x_t and token weights w_t.

    A running mean, as in GPTQ (arXiv 2210.17323), keeps the numbers near 1 whatever the size of the calibration set;
    the paper's factor of 2 changes nothing that is computed from H. The same batches in the same order on the same
    machine and number of threads give the same bits; other batches round differently.

    Memory: columns^2 float32, and one copy of a batch while it is added.
    """

    def __init__(self, columns: int, name: str, device: torch.device | str = "cpu") -> None:
        self.name = name
        """The matrix's name, for messages."""
        self._sums = torch.zeros(columns, columns, dtype=torch.float32, device=device)
        self._mirrored = True  # False: only the lower block triangle of the sums is up to date
        self.token_count = 0
        self.weight_total = 0.0

    @property
    def columns(self) -> int:
        """Number of input channels of the matrix."""
        return self._sums.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of H."""
        return self._sums.device

    @property
    def matrix(self) -> torch.Tensor:
        """H, (columns, columns) float32; not a copy."""
        if not self._mirrored:
            for start in range(0, self.columns, _PANEL):
                stop = start + _PANEL
                self._sums[start:stop, stop:] = self._sums[stop:, start:stop].T
            self._mirrored = True
        return self._sums

    def add(self, activations: torch.Tensor, token_weights: torch.Tensor | None = None) -> None:
        """Adds a batch of inputs of the matrix.

        Args:
            activations: (tokens, columns), any float dtype.
            token_weights: (tokens,) numbers from 0 up (modality.py). None means that all tokens weigh 1.

        Raises:
            ExportError: The shapes do not fit, or a weight is negative or not finite.
            NumericError: An activation is a NaN or an infinity, or overflows; H is unchanged in the first case.
        """
        tokens = activations.shape[0]
        if activations.ndim != 2 or activations.shape[1] != self.columns:
            raise ExportError(f"{self.name} has {self.columns} columns; its inputs have the shape {activations.shape}")
        if tokens == 0:
            return
        inputs = activations.to(self.device, torch.float32)
        self._check_finite(inputs)
        if token_weights is None:
            total = float(tokens)
        else:
            weights = self._checked(token_weights, tokens)
            total = float(weights.sum())
            inputs = inputs * weights.sqrt().to(torch.float32)[:, None]
        self.token_count += tokens
        if total == 0:
            return
        self.weight_total += total
        kept = 1 - total / self.weight_total
        for start in range(0, self.columns, _PANEL):
            panel = inputs[:, start : start + _PANEL]
            below = self._sums[start:, start : start + _PANEL]
            below.addmm_(inputs[:, start:].T, panel, beta=kept, alpha=1 / self.weight_total)
        self._mirrored = self.columns <= _PANEL

    def merge(self, other: Hessian) -> None:
        """Adds the tokens of another Hessian of the same matrix.

        Args:
            other: The other Hessian; unchanged.

        Raises:
            ExportError: The other Hessian has another number of columns.
        """
        if other.columns != self.columns:
            raise ExportError(f"{self.name} has {self.columns} columns, the other partial sum {other.columns}")
        self.token_count += other.token_count
        if other.weight_total == 0:
            return
        self.weight_total += other.weight_total
        self.matrix.lerp_(other.matrix.to(self.device), other.weight_total / self.weight_total)

    def check(self) -> None:
        """Checks that H can be used.

        Raises:
            ExportError: No token was added, or all weigh nothing.
            NumericError: H holds a NaN or an infinity.
        """
        if self.weight_total == 0:
            raise ExportError(f"no calibration token reached {self.name}: the calibration set is empty")
        if not torch.isfinite(self.matrix.diagonal()).all() or not torch.isfinite(self.matrix.sum()):
            raise NumericError(f"the calibration inputs of {self.name} are too large: their second moment overflows")

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state as tensors, for a file: `matrix`, `token_count` (int64) and `weight_total` (float64)."""
        return {
            "matrix": self.matrix,
            "token_count": torch.tensor(self.token_count, dtype=torch.int64),
            "weight_total": torch.tensor(self.weight_total, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], name: str) -> Hessian:
        """Restores a Hessian bit for bit; it keeps the given matrix without copying it.

        Args:
            tensors: What `tensors` returned.
            name: The matrix's name, for messages.

        Raises:
            ExportError: A tensor is missing or misshapen.
        """
        matrix = tensors.get("matrix")
        if matrix is None or "token_count" not in tensors or "weight_total" not in tensors:
            raise ExportError(f"the saved Hessian of {name} is incomplete: delete it and calibrate again")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != torch.float32:
            raise ExportError(f"the saved Hessian of {name} is damaged: delete it and calibrate again")
        hessian = cls(0, name)
        hessian._sums = matrix
        hessian.token_count = int(tensors["token_count"])
        hessian.weight_total = float(tensors["weight_total"])
        return hessian

    def _check_finite(self, inputs: torch.Tensor) -> None:
        finite = torch.isfinite(inputs).all(dim=1)  # (tokens,)
        if not finite.all():
            bad = int((~finite).sum())
            raise NumericError(
                f"the calibration inputs of {self.name} hold a NaN or an infinity in {bad} of {inputs.shape[0]} tokens"
            )

    def _checked(self, token_weights: torch.Tensor, tokens: int) -> torch.Tensor:
        """The weights after a check, (tokens,) float64 on the device of H."""
        if token_weights.shape != (tokens,):
            raise ExportError(f"{self.name} was given {tokens} tokens and weights of the shape {token_weights.shape}")
        weights = token_weights.to(self.device, torch.float64)
        if not torch.isfinite(weights).all() or (weights < 0).any():
            raise ExportError(f"a token weight of {self.name} is negative or not finite")
        return weights
