"""Python values on their way through a call of the native core, whose declarations cffi has read from its header.

A struct or an array that C code points into must live as long as the pointer is used, and C knows nothing of Python's
references. Two rules keep it so: `array_pointer` holds the array that it points into, and `new_struct` holds every
value that was given for a field. So a struct and what it points to live as long as the struct is referenced. A call
uses its arguments until it returns; a handle belongs to the object that closes it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError
from valley2_edge.option_checks import LARGEST_UINT32, check_choice, check_unsigned
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.library import check, library

_KEPT: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()
"""What each struct points to."""
_C_TYPES = {
    "float32": "float[]",
    "int32": "int32_t[]",
    "int64": "int64_t[]",
    "uint8": "uint8_t[]",
    "uint32": "uint32_t[]",
}


def enum_numbers(enum: str, prefix: str) -> dict[str, int]:
    """The values of one of the header's enums by the words that Python has for them, in the order of their numbers."""
    elements: dict[int, str] = ffi.typeof(enum).elements
    return {elements[value].removeprefix(prefix).lower().replace("_", "-"): value for value in sorted(elements)}


ISA_NUMBERS = enum_numbers("v2e_isa", "V2E_ISA_")
ACTIVATIONS_NUMBERS = enum_numbers("v2e_activations", "V2E_ACTIVATIONS_")
KV_PRECISION_NUMBERS = enum_numbers("v2e_kv_precision", "V2E_KV_")
REUSE_NUMBERS = enum_numbers("v2e_reuse", "V2E_REUSE_")
DEVICE_NUMBERS = enum_numbers("v2e_device", "V2E_DEVICE_")
SPECULATION_NUMBERS = enum_numbers("v2e_speculation", "V2E_SPECULATION_")
COMPONENT_NUMBERS = enum_numbers("v2e_component", "V2E_COMPONENT_")


class Stamp(Protocol):
    """What a file was when it was checked, as `os.stat` says."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    @property
    def mtime_ns(self) -> int:
        """Time of the last modification, in nanoseconds since 1970."""

    @property
    def ctime_ns(self) -> int:
        """Time of the last change of any kind, in nanoseconds since 1970."""

    @property
    def inode(self) -> int:
        """The file's number in its file system."""

    @property
    def device(self) -> int:
        """The number of its file system."""


def new_struct(kind: str, /, **values: Any) -> Any:
    """A pointer to a new struct of the header, zero but for what is given.

    Args:
        kind: The struct's name, such as "v2e_decoder_options"; a `struct_size` is filled in.
        **values: Values of fields; None leaves a field zero. What a pointer among them points to stays alive.
    """
    struct = ffi.new(f"{kind} *")
    if any(name == "struct_size" for name, _ in ffi.typeof(kind).fields):
        struct.struct_size = ffi.sizeof(kind)
    for name, value in values.items():
        if value is not None:
            setattr(struct, name, value)
    _KEPT[struct] = tuple(values.values())
    return struct


def struct_array(kind: str, structs: list[Any]) -> Any:
    """An array of copies of structs, which keeps alive what they point to."""
    array = ffi.new(f"{kind}[]", [struct[0] for struct in structs])
    _KEPT[array] = tuple(structs)
    return array


def struct_values(struct: Any, names: list[str]) -> dict[str, Any]:
    """Fields of a struct by their names."""
    return {name: getattr(struct, name) for name in names}


def stamp_struct(stamp: Stamp | None) -> Any:
    """The stamp as the header has it; None accepts any file."""
    if stamp is None:
        return None
    names = ("size", "mtime_ns", "ctime_ns", "inode", "device")
    return new_struct("v2e_file_stamp", **{name: getattr(stamp, name) for name in names})


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path as the header takes it; names that are not UTF-8 are given on as they are.

    Raises:
        InputError: it holds a NUL, where the header's texts end.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise InputError(f"{os.fspath(path)!r} cannot be the path of a file: it holds a NUL.")
    return name


def text_of(pointer: Any) -> str:
    """A text of the library, which is UTF-8."""
    return str(ffi.string(pointer).decode())


def number_of(name: str, value: str, numbers: dict[str, int]) -> int:
    """The header's number for an option that Python names in words.

    Raises:
        OptionError: the option has no such value.
    """
    check_choice(name, value, tuple(numbers))
    return numbers[value]


def unsigned(name: str, value: int, largest: int = LARGEST_UINT32) -> int:
    """The value, when it fits into the header's unsigned type.

    Raises:
        OptionError: it does not fit.
    """
    check_unsigned(name, value, largest)
    return value


def isa_available(name: str) -> bool:
    """Whether this machine can run the kernels of an instruction set, named as in `ISA_NUMBERS`."""
    return bool(library().v2e_isa_available(ISA_NUMBERS[name]))


def token_array(tokens: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Token ids of any integer type as a dense (n,) int32 array.

    Raises:
        InputError: they are not whole numbers of 32 bits in one dimension.
    """
    given = np.asarray(tokens)
    if given.ndim != 1 or (given.size > 0 and not np.issubdtype(given.dtype, np.integer)):
        raise InputError(f"Token ids must be whole numbers in one dimension, not {given.dtype} {given.shape}.")
    if given.size > 0 and (given.min() < -(2**31) or given.max() >= 2**31):
        raise InputError("A token id does not fit into 32 bits.")
    return np.require(given, np.int32, ["C", "A"])


def array_pointer(array: npt.NDArray[Any]) -> Any:
    """A pointer to the values of a dense array, which stays alive as long as the pointer."""
    return ffi.from_buffer(_C_TYPES[array.dtype.name], array)


class EventBridge:
    """Carries events into Python, and an exception raised there back out of the native call.

    It is there even when nobody listens: between two events Python sees Ctrl-C.

    Args:
        receive: called with every event; returning False cancels the call.
        kind: the type of the callback; that of v2e_event by default.
    """

    def __init__(self, receive: Callable[[Any], bool | None], kind: str = "v2e_event_callback") -> None:
        self._receive_event = receive
        self._error: BaseException | None = None
        # What is raised before the receiver's own try, as by Ctrl-C, cancels the call as well.
        self.function = ffi.callback(kind, self._receive, error=1, onerror=self._keep)
        """The callback; it lives as long as this object."""

    def _receive(self, event: Any, _user_data: Any) -> int:
        return 1 if self._receive_event(event) is False else 0

    def _keep(self, _kind: Any, error: BaseException, _trace: Any) -> None:
        """Nothing may unwind through the native frames: `finish` raises it again."""
        self._error = error

    def finish(self, status: int) -> None:
        """Raises what the callback raised, or else what the call's status stands for."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        check(status)
