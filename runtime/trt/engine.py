"""An engine of TensorRT on the GPU: 10, 11 and TensorRT-RTX are driven in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import EngineError
from valley2_edge.runtime.core.vision_engine import Array, EngineInputs
from valley2_edge.runtime.devices.cuda_driver import DeviceBuffer
from valley2_edge.runtime.trt.api import ExecutionContext
from valley2_edge.runtime.trt.platform import Platform

_TYPES: dict[str, type[np.generic]] = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32}


class LoadedEngine:
    """An engine in the GPU's memory, with what its runs need.

    Args:
        platform: The GPU and TensorRT.
        engine: As `build_engine` made it.
        kernels: What `kernels` gave when the engine was loaded before; empty: nothing is known.

    Raises:
        EngineError: TensorRT does not take the engine, or the GPU has not enough memory; the text is a part of a
            sentence.
    """

    def __init__(self, platform: Platform, engine: bytes, kernels: bytes = b"") -> None:
        self._platform = platform
        self._buffers: dict[str, DeviceBuffer] = {}
        self._activations = DeviceBuffer(platform.driver)
        self._kernel_cache: Any = None
        self._stream = 0
        self._context: ExecutionContext | None = None
        with platform.driver.current():
            try:
                self._runtime = platform.trt.Runtime(platform.logger)
                self._engine = self._runtime.deserialize_cuda_engine(engine)
                if self._engine is None:
                    raise EngineError(f"{platform.title} does not load it: {self._reason()}")
                self._context = self._new_context(kernels)
                if self._context is None:
                    raise EngineError(f"{platform.title} does not prepare it: {self._reason()}")
                self._names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
                self._stream = platform.driver.new_stream()
            except BaseException:
                self._release()
                raise

    def run(self, inputs: EngineInputs) -> Array:
        """Computes one call.

        Args:
            inputs: By name, in the engine's own types.

        Returns:
            Its only output, float32.

        Raises:
            EngineError: A shape or type is not the engine's, the GPU has not enough memory, or the run fails; the text
                is a part of a sentence.
        """
        driver, context = self._platform.driver, self._context
        if context is None:
            raise EngineError("it is closed")
        with driver.current():
            held = [self._set_input(context, name, inputs) for name in self._names if self._is_input(name)]
            missing = context.infer_shapes()
            if missing:
                raise EngineError(f"{', '.join(missing)} has no shape")
            size = context.update_device_memory_size_for_shapes()
            if size:
                context.set_device_memory(self._activations.reserve(size), size)
            (output,) = (name for name in self._names if not self._is_input(name))
            result = np.empty(tuple(context.get_tensor_shape(output)), self._type(output))
            address = self._place(context, output, result.nbytes)
            for target, values in held:
                driver.upload(target, values, self._stream)
            if not context.execute_async_v3(self._stream):
                raise EngineError(f"{self._platform.title} does not run it: {self._reason()}")
            driver.download(result, address, self._stream)
            driver.wait(self._stream)
        return result.astype(np.float32, copy=False)

    def kernels(self) -> bytes:
        """What TensorRT-RTX compiled for this GPU so far; empty with TensorRT, whose engines are compiled already."""
        if self._kernel_cache is None:
            return b""
        with self._platform.driver.current():
            return bytes(self._kernel_cache.serialize())

    def close(self) -> None:
        """Gives the GPU's memory back."""
        with self._platform.driver.current():
            self._release()

    def _new_context(self, kernels: bytes) -> ExecutionContext | None:
        strategy = self._platform.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._platform.flavour != "tensorrt_rtx":
            return self._engine.create_execution_context(strategy)  # type: ignore[no-any-return]
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        self._kernel_cache = config.create_runtime_cache()
        if kernels:
            self._kernel_cache.deserialize(kernels)  # one that it does not take stays empty
        config.set_runtime_cache(self._kernel_cache)
        return self._engine.create_execution_context(config)  # type: ignore[no-any-return]

    def _set_input(self, context: ExecutionContext, name: str, inputs: EngineInputs) -> tuple[int, NDArray[Any]]:
        """Where an input goes, and what."""
        values = np.ascontiguousarray(inputs[name])
        if values.dtype != self._type(name):
            raise EngineError(f"{name} is {values.dtype}, and the engine takes {np.dtype(self._type(name))}")
        if not context.set_input_shape(name, values.shape):
            raise EngineError(f"{name} of shape {values.shape} is beyond its profile")
        return self._place(context, name, values.nbytes), values

    def _place(self, context: ExecutionContext, name: str, size: int) -> int:
        address = self._buffers.setdefault(name, DeviceBuffer(self._platform.driver)).reserve(size)
        if not context.set_tensor_address(name, address):
            raise EngineError(f"{self._platform.title} refuses the place of {name}: {self._reason()}")
        return address

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._platform.trt.TensorIOMode.INPUT)

    def _type(self, name: str) -> type[np.generic]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise EngineError(f"{name} is of the type {kind}")
        return _TYPES[kind]

    def _reason(self) -> str:
        return self._platform.logger.last or "it gives no reason"

    def _release(self) -> None:
        # Each of them needs the one after it.
        self._context = self._kernel_cache = self._engine = self._runtime = None
        for buffer in (*self._buffers.values(), self._activations):
            buffer.release()
        if self._stream:
            stream, self._stream = self._stream, 0
            self._platform.driver.destroy_stream(stream)
