"""NVIDIA's driver API as far as TensorRT's engines need it: which GPU there is, memory on it, and a stream."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from valley2_edge.errors import EngineError
from valley2_edge.runtime.devices.driver_cache import keep_driver_caches

DRIVER_VARIABLE = "VALLEY2_CUDA_DRIVER"
"""Another library than libcuda.so.1 or nvcuda.dll, for the native core as well."""

_SUCCESS, _OUT_OF_MEMORY, _NO_DEVICE = 0, 2, 100
_MAJOR, _MINOR = 75, 76
_NON_BLOCKING = 1
_ALIGNMENT = 256
_NAME_BYTES = 256
_VERSION_BYTES = 96


@dataclass(frozen=True)
class Gpu:
    """What an engine depends on."""

    name: str
    capability: str
    """Compute capability, such as "8.6"."""
    driver: str
    """The driver's version, or the CUDA version that it knows."""


class CudaDriver:
    """The first GPU of the machine, in its primary context, which TensorRT and the native core share.

    Raises:
        EngineError: There is no driver, or no GPU; the text is a part of a sentence.
    """

    def __init__(self) -> None:
        keep_driver_caches()
        name = os.environ.get(DRIVER_VARIABLE) or ("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise EngineError(f"there is no NVIDIA driver ({error})") from error
        result = int(self._function("cuInit")(ctypes.c_uint(0)))
        if result == _NO_DEVICE:
            raise EngineError("the NVIDIA driver finds no GPU")
        _check(result, "cuInit")
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self.gpu = self._describe()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the GPU's context current in this thread, and the one before it afterwards."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def close(self) -> None:
        """Gives the context back; memory and streams must have gone before."""
        if self._context:
            self._context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU, whose alignment is that of the driver.

        Raises:
            EngineError: The GPU has not so much memory.
        """
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value)

    def free(self, address: int) -> None:
        """Frees memory of `allocate`."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def new_stream(self) -> int:
        """A stream that waits for no other."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return int(stream.value or 0)

    def destroy_stream(self, stream: int) -> None:
        """Ends a stream of `new_stream`."""
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Returns when all that was put into a stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def upload(self, address: int, values: NDArray[Any], stream: int) -> None:
        """Copies a contiguous array to the GPU; it must stay until the stream is waited for."""
        source = ctypes.c_void_p(values.ctypes.data)
        size = ctypes.c_size_t(values.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, ctypes.c_void_p(stream))

    def download(self, values: NDArray[Any], address: int, stream: int) -> None:
        """Copies from the GPU into a contiguous array; it is whole once the stream was waited for."""
        target = ctypes.c_void_p(values.ctypes.data)
        size = ctypes.c_size_t(values.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), size, ctypes.c_void_p(stream))

    def _describe(self) -> Gpu:
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), self._device)
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device)
            numbers.append(value.value)
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        return Gpu(name.value.decode(errors="replace"), f"{numbers[0]}.{numbers[1]}", _driver_version() or cuda)

    def _call(self, name: str, *arguments: Any) -> None:
        _check(int(self._function(name)(*arguments)), name)

    def _function(self, name: str) -> Callable[..., Any]:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise EngineError(f"the NVIDIA driver is too old: it has no {name}") from error
        function.restype = ctypes.c_int
        return function  # type: ignore[no-any-return]


class DeviceBuffer:
    """Memory on the GPU that grows when more is needed, losing what was there.

    Args:
        driver: Whose context must be current for each call.
    """

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._size = 0
        self.address = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes, a multiple of 256 as TensorRT wants it.

        Raises:
            EngineError: The GPU has not so much memory.
        """
        if size > self._size:
            self.release()
            whole = -(-size // _ALIGNMENT) * _ALIGNMENT
            self.address, self._size = self._driver.allocate(whole), whole
        return self.address

    def release(self) -> None:
        """Frees the memory."""
        if self._size:
            address, self.address, self._size = self.address, 0, 0
            self._driver.free(address)


def _check(result: int, call: str) -> None:
    if result == _OUT_OF_MEMORY:
        raise EngineError(f"the GPU has not enough memory ({call})")
    if result != _SUCCESS:
        raise EngineError(f"the GPU failed in {call} (error {result})")


def _driver_version() -> str:
    """The version of the driver's package, which NVML knows; empty where there is none."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(_VERSION_BYTES)
        if library.nvmlInit_v2() != _SUCCESS:
            return ""
        known = library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_VERSION_BYTES)) == _SUCCESS
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return ""
    return text.value.decode(errors="replace") if known else ""
