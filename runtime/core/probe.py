"""What this machine can do at most at this moment, as the native core measures it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from valley2_edge.errors import Valley2Error
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import DEVICE_NUMBERS, ISA_NUMBERS, new_struct, number_of, unsigned
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject

LimitName = Literal["read", "int8", "fp32", "fp16"]
"""Reading memory, in bytes a second; multiplying int8, float32 and, on a GPU, float16, in operations a second."""
LIMITS: dict[str, tuple[LimitName, ...]] = {"cpu": ("read", "int8", "fp32"), "cuda": ("read", "fp16")}
"""Those that each device has. On a GPU "read" is copying: bytes read and written."""


class Probe(NativeObject):
    """Measures limits with the threads and the instruction set that a decoder would use.

    Args:
        threads: 0: as many as the process may run on.
        isa: A key of `ISA_NUMBERS`; "auto": the machine's best.
        device: "cpu" or "cuda".

    Raises:
        InputError: An option means nothing, or the machine lacks the instruction set or the GPU.
    """

    def __init__(self, threads: int = 0, isa: str = "auto", device: str = "cpu") -> None:
        options = new_struct(
            "v2e_probe_options",
            threads=unsigned("threads", threads),
            isa=number_of("isa", isa, ISA_NUMBERS),
            device=number_of("device", device, DEVICE_NUMBERS),
        )
        handle = ffi.new("v2e_probe **")
        check(library().v2e_probe_open(options, handle))
        self._handle = handle[0]

    def read(self, limit: LimitName) -> float:
        """A limit of this moment; takes some tens of milliseconds and keeps every thread busy.

        Returns:
            Bytes or operations a second; a multiplication with its addition is two operations.

        Raises:
            BudgetError: The memory does not suffice for the block that "read" allocates, 512 MiB.
            InputError: The device has no such limit.
            Valley2Error: The probe is closed.
        """
        if self._handle is None:
            raise Valley2Error("The probe is closed.")
        functions: dict[LimitName, Callable[..., int]] = {
            "read": library().v2e_probe_bandwidth,
            "int8": library().v2e_probe_int8,
            "fp32": library().v2e_probe_fp32,
            "fp16": library().v2e_probe_fp16,
        }
        rate = ffi.new("double *")
        check(functions[limit](self._handle, rate))
        return float(rate[0])

    def close(self) -> None:
        """Ends its threads and frees its memory."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            library().v2e_probe_close(handle)
