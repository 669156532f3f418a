"""Arguments and callbacks on their way through a call of the native core."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError
from valley2_edge.options import LARGEST_UINT32, check_choice, check_unsigned
from valley2_edge.runtime.core.library import EventCallback, FileStampStruct, check


class Stamp(Protocol):
    """What a file was when it was checked, as `os.stat` says."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime_ns(self) -> int:
        """Modified, in nanoseconds since 1970."""

    @property
    def ctime_ns(self) -> int:
        """Changed in any way, likewise."""

    @property
    def inode(self) -> int:
        """Its number in its file system."""

    @property
    def device(self) -> int:
        """The number of its file system."""


def stamp_struct(stamp: Stamp | None) -> Any:
    """A pointer to the stamp as the header has it, which keeps it alive; None: any file will do."""
    if stamp is None:
        return None
    names = ("size", "mtime_ns", "ctime_ns", "inode", "device")
    return ctypes.pointer(FileStampStruct(**{name: getattr(stamp, name) for name in names}))


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path as the header takes it; names that are not UTF-8 are given on as they are.

    Raises:
        InputError: it holds a NUL, where the header's texts end.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise InputError(f"{os.fspath(path)!r} cannot be the path of a file: it holds a NUL.")
    return name


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
        OptionError: it does not fit, and would be cut off without a word.
    """
    check_unsigned(name, value, largest)
    return value


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


def int32_pointer(array: npt.NDArray[np.int32]) -> Any:
    """A pointer to the values of a dense array, valid while the array lives."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))


def float_pointer(array: npt.NDArray[np.float32]) -> Any:
    """A pointer to the values of a dense array, valid while the array lives."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def int64_pointer(array: npt.NDArray[np.int64]) -> Any:
    """A pointer to the values of a dense array, valid while the array lives."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))


class EventBridge:
    """Carries events into Python, and an exception raised there back out of the native call.

    It is there even when nobody listens: between two events Python sees Ctrl-C.

    Args:
        receive: called with every v2e_event; returning False cancels the call.
    """

    def __init__(self, receive: Callable[[Any], bool | None]) -> None:
        self._receive_event = receive
        self._error: BaseException | None = None
        self.function = EventCallback(self._receive)
        """The v2e_event_callback; it lives as long as this object."""

    def _receive(self, event: Any, _user_data: int | None) -> int:
        try:
            return 1 if self._receive_event(event.contents) is False else 0
        except BaseException as error:  # nothing may unwind through the native frames; finish() raises it again
            self._error = error
            return 1

    def finish(self, status: int) -> None:
        """Raises what the callback raised, or else what the call's status stands for."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        check(status)
