"""A native vision tower of the core as a Python object (docs/vision.md)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from valley2_edge.config import ModelConfig
from valley2_edge.errors import BundleError, InputError, Valley2Error
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import (
    COMPONENT_NUMBERS,
    ISA_NUMBERS,
    EventBridge,
    Stamp,
    array_pointer,
    new_struct,
    number_of,
    path_bytes,
    stamp_struct,
    struct_values,
    text_of,
    unsigned,
)
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject
from valley2_edge.runtime.core.vision_engine import ComponentName, output_shape

OnLayer = Callable[[int, int], bool | None]
"""Called with (layers done, layers in all); returning False cancels."""

Floats = npt.NDArray[np.float32]

_COMPONENTS: dict[int, Any] = {number: name for name, number in COMPONENT_NUMBERS.items()}


@dataclass(frozen=True)
class TowerDescription:
    """What a tower is and what it computes with."""

    component: ComponentName
    threads: int
    isa: str
    bf16_arithmetic: bool
    """Whether matrices in bf16 are multiplied as bf16; otherwise they are widened to fp32."""
    input_floats: int
    """Numbers in one tile or patch."""
    mapped_bytes: int
    """Bytes of the file that are mapped from disk."""


@dataclass(frozen=True)
class TowerCost:
    """What a run of a tower takes."""

    output_floats: int
    scratch_bytes: int
    """Bytes of memory that are kept until the tower is closed."""
    operations: float
    """Arithmetic operations; an addition and its multiplication are two."""


@dataclass(frozen=True)
class VocabularyUse:
    """What a run of a projector left out of the visual vocabulary; the fields of v2e_tower_vocabulary."""

    dropped_mass: float
    """Largest probability that was left out of a token."""
    tokens: int
    entries: int
    """Entries of the vocabulary that mattered, summed over the tokens."""
    multiplied: int
    """Entries that were multiplied, summed over the tokens; neighbouring tokens share theirs."""


class Tower(NativeObject):
    """A vision component that is ready to compute; it belongs to one thread at a time.

    Args:
        path: The file, whose weights are mapped.
        component: What the file must hold; None: whatever it holds.
        architecture: The bundle's architecture, which gives the output its shape; None: the output is flat.
        threads: Number of threads of the tower's own pool; 0 is as many as the process may run on.
        isa: Instruction set of the kernels, a key of `ISA_NUMBERS`; "auto" is the machine's best.
        dropped_mass: A projector leaves out those entries of the visual vocabulary whose probabilities sum up to no
            more than this for a token; 0 is 1e-4, or nothing where the matrices are fp32.
        whole_vocabulary: A projector leaves out no entry.
        stamp: What the file was when it was checked; None accepts any file.

    Raises:
        BundleError: The file is missing, damaged, not understood, or not the one that was checked.
        InputError: An option means nothing, or the machine lacks the instruction set.
    """

    def __init__(
        self,
        path: Path,
        component: ComponentName | None = None,
        architecture: ModelConfig | None = None,
        *,
        threads: int = 0,
        isa: str = "auto",
        dropped_mass: float = 0.0,
        whole_vocabulary: bool = False,
        stamp: Stamp | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._architecture = architecture
        options = new_struct(
            "v2e_tower_options",
            threads=unsigned("threads", threads),
            isa=number_of("isa", isa, ISA_NUMBERS),
            dropped_mass=dropped_mass,
            whole_vocabulary=int(whole_vocabulary),
            stamp=stamp_struct(stamp),
        )
        handle = ffi.new("v2e_tower **")
        check(library().v2e_tower_open(path_bytes(path), options, handle))
        self._handle = handle[0]
        self.description = self._describe()
        found = self.description.component
        if component is not None and found != component:
            self.close()
            raise BundleError(f"{path} holds the tower {found} instead of {component}.")

    def _describe(self) -> TowerDescription:
        struct = new_struct("v2e_tower_description")
        check(library().v2e_tower_describe(self.handle, struct))
        return TowerDescription(
            component=_COMPONENTS[struct.component],
            threads=struct.threads,
            isa=text_of(library().v2e_isa_name(struct.isa)),
            bf16_arithmetic=bool(struct.bf16_arithmetic),
            input_floats=struct.input_floats,
            mapped_bytes=struct.mapped_bytes,
        )

    @property
    def handle(self) -> Any:
        """The v2e_tower.

        Raises:
            Valley2Error: The tower is closed.
        """
        if self._handle is None:
            raise Valley2Error("The vision tower is closed.")
        return self._handle

    def plan(self, count: int) -> TowerCost:
        """What a run takes.

        Args:
            count: Number of tiles or patches.

        Raises:
            InputError: The tower cannot take as many.
        """
        struct = new_struct("v2e_tower_cost")
        check(library().v2e_tower_plan(self.handle, count, struct))
        return TowerCost(**struct_values(struct, [field.name for field in fields(TowerCost)]))

    @property
    def vocabulary(self) -> VocabularyUse:
        """What the last run left out; zeros before it, and for other towers than a projector."""
        struct = new_struct("v2e_tower_vocabulary")
        check(library().v2e_tower_vocabulary_of(self.handle, struct))
        return VocabularyUse(**struct_values(struct, [field.name for field in fields(VocabularyUse)]))

    def compute(
        self, values: Floats, positions: npt.NDArray[np.int64] | None = None, cancel: CancelToken | None = None
    ) -> Floats:
        """Computes as `run` does, so that a cancel of the token and Ctrl-C are heard.

        Args:
            values: As in `run`.
            positions: As in `run`.
            cancel: Stops it.

        Raises:
            Cancelled: The token was set.
            InputError, NumericError, BudgetError: As in `run`.
        """
        with (cancel or CancelToken()).stopping(self.cancel):
            try:
                output: Floats = run_interruptibly(lambda: self.run(values, positions), self.cancel)
            finally:
                self.resume()
        return output

    def run(
        self,
        values: npt.NDArray[np.float32],
        positions: npt.NDArray[np.int64] | None = None,
        on_layer: OnLayer | None = None,
    ) -> Floats:
        """Computes tiles, features or patches.

        Args:
            values: (count, ...) float32: tiles of SigLIP, features of the projector, patches of Eagle.
            positions: (count, 2) int64: row and column of each patch; Eagle only.
            on_layer: Called between the layers, on the calling thread.

        Returns:
            float32, as `output_shape` says; flat where the architecture is not known.

        Raises:
            InputError: The input has another shape.
            Cancelled: `cancel` was called or on_layer returned False.
            NumericError: A NaN or an infinity; the text names the stage.
            BudgetError: The memory does not suffice.
        """
        dense = np.require(values, np.float32, ["C", "A"])
        if dense.ndim < 2 or dense[0].size != self.description.input_floats:
            raise InputError(
                f"The {self.description.component} tower takes {self.description.input_floats} numbers for each of its "
                f"inputs, not {list(dense.shape)}."
            )
        places = None if positions is None else np.require(positions, np.int64, ["C", "A"])
        if places is not None and places.shape != (len(dense), 2):
            raise InputError(f"positions must be ({len(dense)}, 2), not {list(places.shape)}.")
        output = np.empty(self.plan(len(dense)).output_floats, np.float32)
        struct = new_struct(
            "v2e_tower_input",
            values=array_pointer(dense),
            count=len(dense),
            positions=None if places is None else array_pointer(places),
        )
        bridge = EventBridge(lambda event: on_layer(int(event.done), int(event.total)) if on_layer else None)
        with self._lock:
            status = library().v2e_tower_run(self.handle, struct, array_pointer(output), bridge.function, ffi.NULL)
        bridge.finish(status)
        if self._architecture is None:
            return output
        return output.reshape(output_shape(self.description.component, self._architecture, len(dense)))

    def cancel(self) -> None:
        """Stops the running call, or else the next ones; legal from every thread.

        The core's kernels stop within some milliseconds.
        """
        if self._handle is not None:
            library().v2e_tower_cancel(self._handle)

    def resume(self) -> None:
        """Ends the effect of `cancel`."""
        if self._handle is not None:
            library().v2e_tower_resume(self._handle)

    def close(self) -> None:
        """Gives the weights back, and threads of its own."""
        with self._lock:
            if self._handle is not None:
                handle, self._handle = self._handle, None
                library().v2e_tower_close(handle)
