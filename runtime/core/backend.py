"""Engines that are written in Python and stand in the place of the core's own kernels (docs/backends.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import COMPONENT_NUMBERS, new_struct
from valley2_edge.runtime.core.library import fail_in_callback

BackendComponent = Literal["siglip", "projector", "eagle", "decoder"]
Floats = npt.NDArray[np.float32]

COMPONENT_NAMES: dict[int, Any] = {number: name for name, number in COMPONENT_NUMBERS.items()}
"""The components by the numbers that the header gives them."""


@dataclass(frozen=True)
class BackendCost:
    """What an engine takes of memory, in bytes; the fields of v2e_backend_cost."""

    weight_bytes: int = 0
    """Memory of the process that an open engine holds; the decoder's is for all sessions together."""
    work_bytes: int = 0
    """Memory of the process that opening or running needs beside that, whichever is more."""
    kv_bytes: int = 0
    """Keys and values of all positions of a session, in the process's memory; the decoder only."""
    gpu_weight_bytes: int = 0
    gpu_work_bytes: int = 0
    gpu_kv_bytes: int = 0
    gpu_library_bytes: int = 0
    """Memory of a GPU that the backend's library itself holds, counted once for all components."""


@dataclass(frozen=True)
class BackendRun:
    """One computation; the arrays belong to the core and are valid until `BackendEngine.run` returns."""

    values: Floats
    """(count, numbers in one of them): tiles, features, patches, or embeddings of the decoder's next positions."""
    output: Floats
    """(numbers,): where the result goes, in the order that v2e_component states."""
    positions: npt.NDArray[np.int64] | None
    """(count, 2): row and column of each patch; Eagle only."""
    past: int
    """Where the first row stands; what was there and behind it is to be forgotten. The decoder only."""
    logit_rows: int
    """Number of last rows whose logits are wanted. The decoder only."""


class BackendEngine(Protocol):
    """A component that a backend has opened; of the decoder, one session's."""

    def run(self, call: BackendRun) -> None:
        """Computes into `call.output`.

        Raises:
            Valley2Error: It cannot be computed; the core's call raises the same exception.
        """

    def cancel(self) -> None:
        """Makes a running `run` raise Cancelled soon; called from any thread."""

    def close(self) -> None:
        """Gives back what the engine holds."""


class Backend(Protocol):
    """What computes components in the place of the core's own kernels."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def open(self, component: BackendComponent) -> BackendEngine:
        """Opens a component.

        Raises:
            Valley2Error: It cannot be opened; the core's call raises the same exception.
        """

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What an engine takes.

        Args:
            component: Which.
            count: Most tiles, features or patches of a run, or positions of a prefill chunk.
            positions: Positions that a session has at most; 0 for vision components.
        """


class BackendTable:
    """A backend as the core calls it.

    Args:
        backend: What computes. This table must outlive everything that the core has opened with it.
        calls: What its functions do; None: those of `BackendCalls`.
    """

    def __init__(self, backend: Backend, calls: BackendCalls | None = None) -> None:
        chosen = calls or BackendCalls(backend)
        kinds = {name: field.type for name, field in ffi.typeof("v2e_backend").fields}
        callbacks = {name: _guarded(kinds[name], function) for name, function in chosen.functions.items()}
        callbacks |= {name: ffi.callback(kinds[name], function) for name, function in chosen.notices.items()}
        self.struct = new_struct("v2e_backend", name=ffi.new("char[]", backend.name.encode()), **callbacks)
        """The v2e_backend; it lives as long as this object."""


class BackendCalls:
    """What the functions of a table do.

    It knows no callback: a table and its backend go with the last reference to the table.

    Args:
        backend: What computes.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._engines: dict[Any, BackendEngine] = {}
        """The open engines by the handles under which the core knows them."""

    @property
    def functions(self) -> dict[str, Callable[..., None]]:
        """The functions of v2e_backend that can fail, by their names."""
        return {"open": self.open, "cost": self.cost, "run": self.run}

    @property
    def notices(self) -> dict[str, Callable[..., None]]:
        """The functions of v2e_backend that cannot fail, by their names."""
        return {"cancel": self.cancel, "close": self.close}

    def open_engine(self, component: BackendComponent) -> BackendEngine:
        """Opens a component."""
        return self._backend.open(component)

    def open(self, _user_data: Any, component: int, engine: Any) -> None:
        """v2e_backend.open."""
        opened = self.open_engine(COMPONENT_NAMES[component])
        handle = ffi.new_handle(opened)
        self._engines[handle] = opened
        engine[0] = handle

    def cost(self, _user_data: Any, shape: Any, cost: Any) -> None:
        """v2e_backend.cost."""
        found = self._backend.cost(COMPONENT_NAMES[shape.component], shape.count, shape.positions)
        for name, value in asdict(found).items():
            setattr(cost, name, value)

    def run(self, engine: Any, run: Any) -> None:
        """v2e_backend.run."""
        positions = None
        if run.positions != ffi.NULL:
            positions = _array(run.positions, run.count * 2, np.int64).reshape(run.count, 2)
        values = _array(run.values, run.count * run.row_floats, np.float32).reshape(run.count, run.row_floats)
        output = _array(run.output, run.output_floats, np.float32)
        self._engines[engine].run(BackendRun(values, output, positions, run.past, run.logit_rows))

    def cancel(self, engine: Any) -> None:
        """v2e_backend.cancel."""
        self._engines[engine].cancel()

    def close(self, engine: Any) -> None:
        """v2e_backend.close."""
        self._engines.pop(engine).close()


def _guarded(kind: Any, function: Callable[..., None]) -> Any:
    """A callback that returns a status; nothing may unwind through the native frames."""

    def call(*arguments: Any) -> int:
        function(*arguments)
        return 0

    def keep(_kind: Any, error: BaseException, _trace: Any) -> int:
        return fail_in_callback(error)

    return ffi.callback(kind, call, onerror=keep)


def _array(pointer: Any, count: int, dtype: Any) -> npt.NDArray[Any]:
    """The core's numbers as an array, without a copy."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ffi.buffer(pointer, size), dtype)
