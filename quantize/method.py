"""The rounding methods behind one interface.

A matrix is rounded like this:

method = rounding_method("gptq", GptqOptions(order="activation"))
rounding = method.start(matrix_format, "layers.0.mlp.down", hessian)
for block in row_blocks:  # (rows, columns) float32
    write(rounding.quantize(block))
record = rounding.record()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from valley2_edge.errors import ExportError
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.error import estimated_output_energy, output_energy, ratio_of_norms
from valley2_edge.quantize.factor import NotPositiveDefiniteError
from valley2_edge.quantize.gptq import DAMPING_SERIES, GptqSolver
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.input_drift import InputDrift
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.nf4 import quantize_rows_nf4
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows, quantize_rows

MethodName = Literal["rtn", "gptq", "nf4"]


@dataclass(frozen=True)
class MatrixRecord:
    """What was done to one matrix, and what it cost."""

    name: str
    method: MethodName
    """The method that rounded the matrix: rtn where gptq fell back, and for int8 matrices of an nf4 decoder."""
    precision: DecoderPrecision
    group_size: int
    weight_error: float
    """Norm of the weight difference over norm of the weight."""
    output_error: float | None
    """Norm of the output difference over norm of the output on the calibration inputs, the latter estimated from every
    eighth row of a large matrix; None without a Hessian."""
    output_loss: float | None
    """tr(dW H dW^T): the mean squared norm of the output difference; None without a Hessian. Where the target is the
    output of the unrounded model, dW is the distance from the weights that come nearest to it (input_drift.py)."""
    damping: float | None = None
    """What gptq added to the diagonal of the Hessian, as a share of the diagonal's mean."""
    dead_columns: int = 0
    """Number of columns whose calibration input was always zero."""
    fallback: str | None = None
    """What was done in another way than asked, in words; None where everything went as asked."""


class Rounding(Protocol):
    """One matrix while it is rounded."""

    def quantize(self, weights: torch.Tensor) -> QuantizedRows:
        """Rounds the next rows, (rows, columns) float32, which stay unchanged."""

    def record(self) -> MatrixRecord:
        """What was done to the rows so far."""


class Method(Protocol):
    """A way of rounding matrices."""

    @property
    def name(self) -> MethodName:
        """The method's name on the command line and in the manifest."""

    @property
    def needs_hessian(self) -> bool:
        """Whether `start` refuses to begin without a Hessian."""

    @property
    def follows_unrounded(self) -> bool:
        """Whether `start` takes the drift of the inputs from those of the unrounded model."""

    def start(
        self, matrix_format: MatrixFormat, name: str, hessian: Hessian | None = None, drift: InputDrift | None = None
    ) -> Rounding:
        """Begins a matrix.

        Args:
            matrix_format: int4 or int8.
            name: The matrix's name, for messages.
            hessian: Hessian of the matrix's inputs, unchanged; rtn and nf4 use it only for the record.
            drift: How far the inputs have drifted; only a method that follows the unrounded model is given it.

        Raises:
            ExportError: The method cannot make this format, or its Hessian is missing or empty.
            NumericError: The Hessian holds a NaN or an infinity.
        """


def rounding_method(name: MethodName, options: GptqOptions | None = None) -> Method:
    """Returns the method with a name.

    Args:
        name: rtn, gptq or nf4.
        options: The options of gptq; None means its defaults. The other methods have no options.

    Raises:
        ExportError: There is no such method, or it takes no options.
    """
    if name == "gptq":
        return _Gptq(options or GptqOptions())
    if options is not None:
        raise ExportError(f"the method {name} has no options of gptq")
    if name == "rtn":
        return _Rtn()
    if name == "nf4":
        return _Nf4()
    raise ExportError(f"method {name!r} is unknown: choose rtn, gptq or nf4")


def quantize_matrix(
    weights: torch.Tensor, matrix_format: MatrixFormat, hessian: Hessian | None, name: str, method: Method
) -> tuple[QuantizedRows, MatrixRecord]:
    """Rounds a whole matrix.

    Args:
        weights: (rows, columns) float32.
        matrix_format: int4 or int8.
        hessian: Hessian of the matrix's inputs, which gptq needs.
        name: The matrix's name, for messages.
        method: What `rounding_method` returned.

    Raises:
        ExportError: `Method.start` refuses the arguments, a weight is not finite, or a scale exceeds fp16.
        NumericError: The Hessian holds a NaN or an infinity.
    """
    matrix_format.check_columns(name, weights.shape[1])
    rounding = method.start(matrix_format, name, hessian)
    return rounding.quantize(weights), rounding.record()


class _Sums:
    """Squared errors and norms of the rows of one matrix."""

    def __init__(self, matrix_format: MatrixFormat, hessian: Hessian | None) -> None:
        self._format = matrix_format
        self._hessian = hessian
        self.weight_loss = 0.0
        self.weight_energy = 0.0
        self.output_loss = 0.0
        self.output_energy = 0.0

    def add(self, exact: torch.Tensor, weight_loss: float, output_loss: float) -> None:
        """Adds rows.

        Args:
            exact: The exact weights, (rows, columns) float32.
            weight_loss: tr(dW dW^T) of these rows.
            output_loss: tr(dW H dW^T) of these rows; nobody looks at it without a Hessian.
        """
        self.weight_loss += weight_loss
        self.weight_energy += _squared_norm(exact)
        if self._hessian is not None:
            self.output_loss += output_loss
            self.output_energy += estimated_output_energy(exact, self._hessian)

    def record(self, name: str, method: MethodName) -> MatrixRecord:
        measured = self._hessian is not None
        return MatrixRecord(
            name=name,
            method=method,
            precision=self._format.precision,
            group_size=self._format.group_size,
            weight_error=ratio_of_norms(self.weight_loss, self.weight_energy),
            output_error=ratio_of_norms(self.output_loss, self.output_energy) if measured else None,
            output_loss=self.output_loss if measured else None,
        )


class _DirectRounding:
    """Rounding that depends on the weights only."""

    def __init__(
        self,
        method: MethodName,
        matrix_format: MatrixFormat,
        name: str,
        hessian: Hessian | None,
        quantize: Callable[[torch.Tensor, MatrixFormat, str], QuantizedRows],
        fallback: str | None = None,
    ) -> None:
        if hessian is not None:
            matrix_format.check_columns(name, hessian.columns)
            hessian.check()
        self._method = method
        self._format = matrix_format
        self._hessian = hessian
        self._name = name
        self._quantize = quantize
        self._fallback = fallback
        self._sums = _Sums(matrix_format, hessian)

    def quantize(self, weights: torch.Tensor) -> QuantizedRows:
        rows = self._quantize(weights, self._format, self._name)
        change = dequantize_rows(rows, self._format).sub_(weights)
        output_loss = 0.0 if self._hessian is None else output_energy(change, self._hessian)
        self._sums.add(weights, _squared_norm(change), output_loss)
        return rows

    def record(self) -> MatrixRecord:
        return replace(self._sums.record(self._name, self._method), fallback=self._fallback)


class _GptqRounding:
    """Rounding with a factorised Hessian."""

    def __init__(self, solver: GptqSolver, hessian: Hessian, matrix_format: MatrixFormat, asked: float) -> None:
        self._solver = solver
        self._asked = asked
        self._sums = _Sums(matrix_format, hessian)

    def quantize(self, weights: torch.Tensor) -> QuantizedRows:
        solver = self._solver
        weight_loss, output_loss = solver.squared_weight_error, solver.squared_error
        rows = solver.quantize(weights)
        self._sums.add(weights, solver.squared_weight_error - weight_loss, solver.squared_error - output_loss)
        return rows

    def record(self) -> MatrixRecord:
        solver, fallback = self._solver, None
        if solver.damping > self._asked:
            fallback = (
                f"the Hessian is not positive definite with a damping of {self._asked:g}: {solver.damping:g} was used"
            )
        record = self._sums.record(solver.name, "gptq")
        return replace(record, damping=solver.damping, dead_columns=solver.dead_columns, fallback=fallback)


def _squared_norm(matrix: torch.Tensor) -> float:
    """The sum of the squares, which is added up in float32 within a row and in float64 over the rows."""
    return float(torch.linalg.vector_norm(matrix, dim=1).to(torch.float64).square_().sum())


class _Rtn:
    name: MethodName = "rtn"
    needs_hessian = False
    follows_unrounded = False

    def start(
        self, matrix_format: MatrixFormat, name: str, hessian: Hessian | None = None, drift: InputDrift | None = None
    ) -> Rounding:
        return _DirectRounding("rtn", matrix_format, name, hessian, quantize_rows)


class _Nf4:
    name: MethodName = "nf4"
    needs_hessian = False
    follows_unrounded = False

    def start(
        self, matrix_format: MatrixFormat, name: str, hessian: Hessian | None = None, drift: InputDrift | None = None
    ) -> Rounding:
        if matrix_format.precision == "int8":  # lm_head is int8 where the layers are nf4
            return _Rtn().start(matrix_format, name, hessian)
        return _DirectRounding("nf4", matrix_format, name, hessian, quantize_rows_nf4)


class _Gptq:
    name: MethodName = "gptq"
    needs_hessian = True

    def __init__(self, options: GptqOptions) -> None:
        self.options = options
        self.follows_unrounded = options.follow_unrounded

    def start(
        self, matrix_format: MatrixFormat, name: str, hessian: Hessian | None = None, drift: InputDrift | None = None
    ) -> Rounding:
        if hessian is None:
            raise ExportError(f"gptq needs calibration inputs for {name}: give a calibration set or choose rtn")
        try:
            solver = GptqSolver(hessian, matrix_format, self.options, name, drift)
        except NotPositiveDefiniteError:
            highest = self.options.damping * DAMPING_SERIES[-1]
            fallback = f"the Hessian is not positive definite even with a damping of {highest:g}: rounded to nearest"
            return _DirectRounding("rtn", matrix_format, name, hessian, quantize_rows, fallback)
        return _GptqRounding(solver, hessian, matrix_format, self.options.damping)
