"""Measures which matrices need more bits: what each format would cost the output of each matrix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from valley2_edge.config import DecoderConfig
from valley2_edge.export.decoder.layers import split_parts
from valley2_edge.export.rounding.layer_store import flush_file
from valley2_edge.quantize.error import output_energy
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.input_drift import InputDrift
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.method import MatrixRecord, MethodName, Rounding, rounding_method
from valley2_edge.quantize.mixed_precision import MatrixChoices
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows, quantize_rows


class SensitivityMethod:
    """Rounds as rtn does, and measures what every candidate format would have cost.

    The layers should be rounded with a format that changes little (int8), so that the inputs are nearly those of the
    unrounded model.

    Args:
        path: A JSON file that keeps the measurements of finished matrices.
        formats: The candidate formats.
    """

    name: MethodName = "rtn"
    needs_hessian = True
    follows_unrounded = False

    def __init__(self, path: Path, formats: Sequence[MatrixFormat]) -> None:
        self._path = path
        self._formats = list(formats)
        self._losses: dict[str, list[float]] = {}
        if path.is_file():
            self._losses = json.loads(path.read_text("utf-8"))

    def start(
        self, matrix_format: MatrixFormat, name: str, hessian: Hessian | None = None, drift: InputDrift | None = None
    ) -> Rounding:
        """Begins a matrix, as `Method.start` says."""
        plain = rounding_method("rtn").start(matrix_format, name, hessian)
        return plain if hessian is None else _MatrixSensitivity(self, plain, name, hessian)

    def losses_of(self, name: str, columns: int, rows: torch.Tensor, hessian: Hessian) -> list[float]:
        """The loss tr(dW H dW^T) of some rows in every candidate format.

        Args:
            name: The matrix, for messages.
            columns: Number of columns of the matrix.
            rows: Some rows of the matrix, (rows, columns) float32.
            hessian: Hessian of the matrix's inputs.

        Returns:
            A loss for each candidate, infinite where the columns do not divide into its groups.
        """
        losses = []
        for candidate in self._formats:
            if columns % candidate.group_size:
                losses.append(float("inf"))
                continue
            change = dequantize_rows(quantize_rows(rows, candidate, name), candidate) - rows
            losses.append(output_energy(change, hessian))
        return losses

    def keep(self, name: str, losses: list[float]) -> None:
        """Keeps the losses of a finished matrix, also on disk.

        Args:
            name: The matrix.
            losses: The relative loss in each candidate format.
        """
        self._losses[name] = losses
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self._losses), "utf-8")
        flush_file(temporary)
        temporary.replace(self._path)

    def choices(self, config: DecoderConfig) -> list[MatrixChoices]:
        """Every matrix of the layers with the relative squared error that each format causes in its output.

        Args:
            config: The decoder's sizes.
        """
        layers, _ = split_parts(config)
        return [
            MatrixChoices(
                matrix.name,
                matrix.rows,
                matrix.columns,
                {
                    candidate: loss
                    for candidate, loss in zip(self._formats, self._losses[matrix.name], strict=True)
                    if loss != float("inf")
                },
            )
            for layer in layers
            for matrix in layer.matrices
        ]


class _MatrixSensitivity:
    """One matrix while it is rounded and measured."""

    def __init__(self, method: SensitivityMethod, plain: Rounding, name: str, hessian: Hessian) -> None:
        self._method = method
        self._plain = plain
        self._name = name
        self._hessian = hessian
        self._energy = 0.0
        self._losses: list[float] = []

    def quantize(self, weights: torch.Tensor) -> QuantizedRows:
        """Rounds the next rows as rtn does, and measures them in every format."""
        losses = self._method.losses_of(self._name, weights.shape[1], weights, self._hessian)
        self._losses = [a + b for a, b in zip(self._losses or [0.0] * len(losses), losses, strict=True)]
        self._energy += output_energy(weights, self._hessian)
        return self._plain.quantize(weights)

    def record(self) -> MatrixRecord:
        """Returns what rtn did, and hands the measurements to the method."""
        self._method.keep(self._name, [loss / self._energy if self._energy else 0.0 for loss in self._losses])
        return self._plain.record()
