"""What GPTQ does to the rows of a matrix between two matrix products, computed by the native core.

Arrays are numpy arrays in the memory of their owner, which the calls change in place. They may be parts of larger
arrays as long as the values of a row lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import ISA_NUMBERS, new_struct, number_of, unsigned
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject

ROW_STEP = 16
"""Rows are computed in multiples of this number."""
MOST_COLUMNS = 128
"""Positions of a block that are rounded in one call, and columns that are visited in one block."""
MOST_VISITED = 1024
"""Columns that `visit_columns` takes when it updates their slopes, and inner columns of a sparse product."""

NOT_FINITE = 1
"""Fault: a weight is a NaN or an infinity."""
SCALE_TOO_LARGE = 2
"""Fault: a scale exceeds fp16."""

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class GridFormat:
    """The levels that a group of weights may take: weight = (value - zero) * scale."""

    bits: int
    """4 or 8."""
    group_size: int
    """Number of columns that share a scale: 32, 64 or 128."""
    has_zeros: bool
    """Whether each group has a zero point of its own; otherwise it is 8 or 128. Not with 8 bits."""
    search: bool = False
    """Whether a scale is the best of 21 shrunk ranges, where there are zero points each with its two neighbours, and of
    two that are equally good the first; otherwise it covers the range of its group."""

    def struct(self) -> Any:
        """The grid as the header has it."""
        return new_struct(
            "v2e_grid",
            bits=unsigned("bits", self.bits),
            group_size=unsigned("group_size", self.group_size),
            has_zeros=int(self.has_zeros),
            search=int(self.search),
        )


@dataclass(frozen=True)
class ColumnBlock:
    """Positions that GPTQ rounds, from the last one to the first; each changes the targets of those before it."""

    columns: NDArray[np.uint32]
    """(count,): the stored column of each position."""
    triangle: Floats
    """(count, count): L of H = L D L^T by position, lower with ones on the diagonal."""
    importance: Floats | None
    """(count,): what a squared error costs. Given, the scales of a group are chosen when its last position is reached,
    from the weights that would then be best; None leaves all scales as they are."""
    targets: Floats
    """(count, rows): the exact weights minus the changes at later positions times their factors, which is what would be
    best once those are rounded; becomes value minus target."""
    weights: Floats
    """(count, rows): the exact weights; becomes value minus weight."""
    scales: Floats
    """(groups, rows): of the whole matrix."""
    zeros: Floats
    """(groups, rows)."""
    values: Bytes
    """(rows, columns) of the whole matrix, in stored order: what is chosen."""


@dataclass(frozen=True)
class VisitBlock:
    """Columns whose integers are chosen again, each while all others stay."""

    rounds: int
    """Rounds over the columns of each 128."""
    fit_scales: bool
    """Whether the scales are fitted to the integers as well."""
    update_slopes: bool
    """Whether the changes are applied to the slopes of these columns; needed for more than 128."""
    hessian: Floats
    """(count, count): their part of the Hessian."""
    added: Floats
    """(count,): what is added to its diagonal."""
    slopes: Floats
    """(rows, count): the change of all weights times the damped Hessian."""
    values: Bytes
    """(rows, count)."""
    scales: Floats
    """(count / group_size, rows)."""
    zeros: Floats
    """(count / group_size, rows)."""
    changes: Floats
    """(rows, count): becomes what every weight has changed by."""
    gains: NDArray[np.float64]
    """(rows,): what the error of each row fell by is added."""
    moved: Bytes
    """(rows,): becomes 1 where a value has changed."""


class Rounder(NativeObject):
    """Threads and kernels for rounding; the results do not depend on the number of threads.

    Args:
        threads: 0: as many as the process may run on.
        isa: A key of `ISA_NUMBERS`; "auto": the machine's best. All give the same bits but "portable".

    Raises:
        InputError: An option means nothing, or the machine lacks the instruction set.
    """

    def __init__(self, threads: int = 0, isa: str = "auto") -> None:
        handle = ffi.new("v2e_rounder **")
        check(library().v2e_rounder_open(unsigned("threads", threads), number_of("isa", isa, ISA_NUMBERS), handle))
        self._handle = handle[0]

    def fit_groups(self, grid: GridFormat, weights: Floats, importance: Floats, scales: Floats, zeros: Floats) -> int:
        """Chooses the scales and zero points of all groups.

        Args:
            grid: Which levels there are, and how they are chosen.
            weights: (rows, columns), rows a multiple of 16.
            importance: (columns,): what a squared error costs.
            scales: (columns / group_size, rows): the result, numbers that fp16 has; 0 for a group of zeros.
            zeros: (columns / group_size, rows): the result, whole numbers.

        Returns:
            The faults that were met, `NOT_FINITE` + `SCALE_TOO_LARGE`.

        Raises:
            InputError: The arrays do not belong together.
        """
        rows, columns = weights.shape
        groups = columns // grid.group_size
        _check(weights, np.float32, (rows, columns))
        _check(importance, np.float32, (columns,))
        _check_dense(scales, np.float32, (groups, rows))
        _check_dense(zeros, np.float32, (groups, rows))
        faults = ffi.new("uint32_t *")
        status = library().v2e_fit_groups(
            self._open(),
            grid.struct(),
            _pointer(weights),
            _stride(weights),
            _pointer(importance),
            rows,
            columns,
            _pointer(scales),
            _pointer(zeros),
            faults,
        )
        check(status)
        return int(faults[0])

    def round_columns(self, grid: GridFormat, block: ColumnBlock) -> int:
        """Rounds the positions of a block.

        Args:
            grid: Which levels there are, and how they are chosen.
            block: At most 128 positions of rows that are a multiple of 16; changed in place.

        Returns:
            The faults that were met, as `fit_groups` returns them; 0 where no grid is chosen.

        Raises:
            InputError: The arrays do not belong together.
        """
        count, rows = block.targets.shape
        columns = block.values.shape[1]
        groups = columns // grid.group_size
        _check(block.columns, np.uint32, (count,))
        _check(block.triangle, np.float32, (count, count))
        if block.importance is not None:
            _check(block.importance, np.float32, (count,))
        for array, shape in ((block.targets, (count, rows)), (block.weights, (count, rows))):
            _check_dense(array, np.float32, shape)
        for array in (block.scales, block.zeros):
            _check_dense(array, np.float32, (groups, rows))
        _check_dense(block.values, np.uint8, (rows, columns))
        struct = new_struct(
            "v2e_column_block",
            rows=rows,
            count=count,
            all_columns=columns,
            fits_groups=int(block.importance is not None),
            columns=_pointer(block.columns),
            triangle=_pointer(block.triangle),
            triangle_stride=_stride(block.triangle),
            importance=None if block.importance is None else _pointer(block.importance),
            targets=_pointer(block.targets),
            weights=_pointer(block.weights),
            scales=_pointer(block.scales),
            zeros=_pointer(block.zeros),
            values=_pointer(block.values),
        )
        faults = ffi.new("uint32_t *")
        check(library().v2e_round_columns(self._open(), grid.struct(), struct, faults))
        return int(faults[0])

    def visit_columns(self, grid: GridFormat, block: VisitBlock) -> None:
        """Gives the integers of some columns their best levels, one after the other (arXiv 2309.01885, algorithm 1).

        Args:
            grid: Which levels there are.
            block: At most 1024 columns of rows that are a multiple of 16; changed in place.

        Raises:
            InputError: The arrays do not belong together.
        """
        rows, count = block.slopes.shape
        groups = count // grid.group_size
        _check(block.hessian, np.float32, (count, count))
        _check(block.added, np.float32, (count,))
        _check(block.slopes, np.float32, (rows, count))
        _check(block.values, np.uint8, (rows, count))
        for array in (block.scales, block.zeros):
            _check_dense(array, np.float32, (groups, rows))
        _check_dense(block.changes, np.float32, (rows, count))
        _check_dense(block.gains, np.float64, (rows,))
        _check_dense(block.moved, np.uint8, (rows,))
        struct = new_struct(
            "v2e_visit_block",
            rows=rows,
            count=count,
            rounds=unsigned("rounds", block.rounds),
            fits_scales=int(block.fit_scales),
            updates_slopes=int(block.update_slopes),
            hessian=_pointer(block.hessian),
            hessian_stride=_stride(block.hessian),
            added=_pointer(block.added),
            slopes=_pointer(block.slopes),
            slope_stride=_stride(block.slopes),
            values=_pointer(block.values),
            value_stride=_stride(block.values),
            scales=_pointer(block.scales),
            zeros=_pointer(block.zeros),
            changes=_pointer(block.changes),
            gains=_pointer(block.gains),
            moved=_pointer(block.moved),
        )
        check(library().v2e_visit_columns(self._open(), grid.struct(), struct))

    def add_sparse_product(self, changes: Floats, matrix: Floats, target: Floats) -> None:
        """Adds changes times matrix to the target, in time that grows with the changes that are not 0.

        Args:
            changes: (rows, inner), inner at most 1024.
            matrix: (inner, columns), columns a multiple of 16.
            target: (rows, columns); changed in place.

        Raises:
            InputError: The arrays do not belong together.
        """
        rows, inner = changes.shape
        columns = matrix.shape[1]
        _check_dense(changes, np.float32, (rows, inner))
        _check(matrix, np.float32, (inner, columns))
        _check(target, np.float32, (rows, columns))
        status = library().v2e_add_sparse_product(
            self._open(),
            _pointer(changes),
            rows,
            inner,
            _pointer(matrix),
            _stride(matrix),
            columns,
            _pointer(target),
            _stride(target),
        )
        check(status)

    def close(self) -> None:
        """Ends its threads."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            library().v2e_rounder_close(handle)

    def _open(self) -> Any:
        if self._handle is None:
            raise Valley2Error("The rounder is closed.")
        return self._handle


_POINTERS = {"float32": "float *", "float64": "double *", "uint8": "uint8_t *", "uint32": "uint32_t *"}


def _pointer(array: NDArray[Any]) -> Any:
    """A pointer to the first value; the array's owner keeps it alive for the length of a call."""
    return ffi.cast(_POINTERS[array.dtype.name], array.ctypes.data)


def _stride(array: NDArray[Any]) -> int:
    """How many values lie from one row to the next."""
    return array.strides[0] // array.itemsize if len(array) > 1 else array.shape[1]


def _check(array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Checks the type and the shape, and that the values of a row lie side by side."""
    if array.dtype != dtype or array.shape != shape:
        raise InputError(f"An array is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}.")
    step = array.strides[0] if array.ndim > 1 else array.itemsize
    if array.strides[-1] != array.itemsize or step < array.shape[-1] * (array.itemsize if array.ndim > 1 else 0):
        raise InputError(f"The rows of an array {array.shape} do not lie side by side.")


def _check_dense(array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Checks the type and the shape, and that no gap is between the rows."""
    _check(array, dtype, shape)
    if not array.flags.c_contiguous:
        raise InputError(f"The rows of an array {array.shape} have gaps between them.")
