"""The options of GPTQ; in a module without torch, so that they can be checked before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from valley2_edge.errors import ExportError

MOST_PASSES = 16

ColumnOrder = Literal["columns", "activation", "groups"]


@dataclass(frozen=True)
class GptqOptions:
    """How GPTQ rounds."""

    damping: float = 0.01
    """What is added to the diagonal of the Hessian, as a share of the diagonal's mean."""
    order: ColumnOrder = "activation"
    """The order in which columns are rounded. "columns" is the stored order. "activation" begins with the largest
    diagonal of the Hessian, and chooses all scales before anything is rounded. "groups" sorts the groups by their
    largest diagonal, and the columns inside of each, and chooses the scales of a group when the group begins. The
    stored layout is the same for all orders."""
    follow_unrounded: bool = True
    """Whether a matrix is fitted to the outputs of the unrounded model, which makes up for what the matrices before it
    lost; otherwise to its own outputs on the inputs as they are. Needs the unrounded layers to run as well."""
    scale_search: bool = True
    """Whether each scale is chosen by the error of the output; otherwise it covers the group's range."""
    descent_passes: int = 3
    """Largest number of passes over the rounded integers (descent.py). The first takes twice as long as rounding, where
    it fits scales; all others are short."""
    scale_refit: bool = True
    """Whether the first pass, in int8 the first two, also fits the scales to the integers."""
    block_size: int = 128
    """Number of columns whose effect on all later columns is applied at once; a multiple of the group size."""

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise ExportError(f"--damping is a share of the mean diagonal above 0 and up to 1, not {self.damping:g}")
        if self.order not in ("columns", "activation", "groups"):
            raise ExportError(f"--column-order must be columns, activation or groups, not {self.order!r}")
        if not 0 <= self.descent_passes <= MOST_PASSES:
            raise ExportError(f"--descent-passes must be 0 to {MOST_PASSES}, not {self.descent_passes}")
        if self.block_size < 128 or self.block_size % 128:
            raise ExportError(f"block size {self.block_size} is not a multiple of 128")
