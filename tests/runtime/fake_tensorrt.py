"""A TensorRT whose engines are ONNX models that ONNX Runtime computes, in the memory of the fake driver.

Its parts are those of TensorRT's Python interface that are used, with the checks that TensorRT makes: shapes within the
profile, every address set, enough memory for activations.
"""

from __future__ import annotations

import ctypes
import json
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

DataType = Enum("DataType", ["FLOAT", "HALF", "INT64", "INT32"])
TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
_TYPES = {
    onnx.TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    onnx.TensorProto.INT64: (DataType.INT64, np.int64),
}
_BYTES_PER_ROW = 1000


class Logger:
    ERROR, INTERNAL_ERROR = 1, 0


class FakeTensorRt:
    """The module; `events` are what was asked of it, in order."""

    ILogger = Logger
    IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    ExecutionContextAllocationStrategy = Enum("Strategy", ["STATIC", "USER_MANAGED"])
    TensorIOMode = TensorIOMode

    def __init__(self, rtx: bool) -> None:
        self.__version__ = "1.7.1" if rtx else "11.4.0"
        self.rtx = rtx
        self.events: list[str] = []
        self.unbuildable: set[str] = set()
        """Components whose build fails."""
        self.unloadable = 0
        """So many engines are refused when they are loaded."""
        self.fails = ""
        """A component that does not run, or "nan" or "wrong": what comes out."""
        self.steps = 3
        self.strategies: list[Any] = []
        self.kernels: list[bytes] = []
        """What the runtime caches were given."""
        if rtx:
            self.ComputeCapability = SimpleNamespace(SM75=75, SM86=86, SM89=89)

    def OnnxParser(self, network: dict[str, Any], logger: Any) -> Any:  # noqa: N802
        def parse(path: str) -> bool:
            network["name"] = Path(path).stem
            network["model"] = onnx.load(path).SerializeToString()
            return True

        return SimpleNamespace(parse_from_file=parse)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        profile: dict[str, Any] = {}
        config = SimpleNamespace(
            progress_monitor=None,
            add_optimization_profile=lambda shapes: 0,
            set_compute_capability=lambda capability, index: self.events.append(f"target {capability}"),
        )

        def build(network: dict[str, Any], config: Any) -> bytes | None:
            monitor, name = config.progress_monitor, network["name"]
            self.events.append(f"build {name}")
            monitor.phase_start("graph", None, self.steps)
            if not all(monitor.step_complete("graph", step) for step in range(self.steps)):
                return None
            monitor.phase_finish("graph")
            if name in self.unbuildable:
                logger.log(Logger.ERROR, f"no kernel for {name}\nmore")
                return None
            head = json.dumps({"name": name, "profile": profile}).encode()
            return head + b"\n" + network["model"]

        return SimpleNamespace(
            create_network=lambda flags: {},
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: profile.update({name: shapes})
            ),
            build_serialized_network=build,
        )

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def deserialize(engine: bytes) -> Any:
            if self.unloadable:
                self.unloadable -= 1
                logger.log(Logger.ERROR, "the engine is of another kind")
                return None
            head, _, model = bytes(engine).partition(b"\n")
            return _Engine(self, json.loads(head), model)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class _Engine:
    def __init__(self, trt: FakeTensorRt, head: dict[str, Any], model: bytes) -> None:
        self.trt, self.name, self.profile = trt, head["name"], head["profile"]
        graph = onnx.load_from_string(model).graph
        self.modes = {info.name: TensorIOMode.INPUT for info in graph.input}
        self.modes |= {info.name: TensorIOMode.OUTPUT for info in graph.output}
        self.types = {info.name: _TYPES[info.type.tensor_type.elem_type] for info in (*graph.input, *graph.output)}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.num_io_tensors = len(self.modes)
        trt.events.append(f"load {self.name}")

    def get_tensor_name(self, index: int) -> str:
        return list(self.modes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.modes[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.types[name][0]

    def create_runtime_config(self) -> Any:
        def create_cache() -> Any:
            return SimpleNamespace(
                deserialize=self.trt.kernels.append, serialize=lambda: f"kernels of {self.name}".encode()
            )

        config = SimpleNamespace(create_runtime_cache=create_cache, strategy=None)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        config.set_runtime_cache = lambda cache: None
        return config

    def create_execution_context(self, strategy: Any) -> Any:
        self.trt.strategies.append(strategy.strategy if self.trt.rtx else strategy)
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.results: dict[str, Any] = {}
        self.memory = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profile[name]
        if len(shape) != len(low) or any(not a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.profile if name not in self.shapes]

    def update_device_memory_size_for_shapes(self) -> int:
        return _BYTES_PER_ROW * next(iter(self.shapes.values()))[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.update_device_memory_size_for_shapes()
        ctypes.memset(memory, 255, size)
        self.memory = (memory, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        feeds = {key: np.zeros(shape, self.engine.types[key][1]) for key, shape in self.shapes.items()}
        found: Any = self.engine.session.run([name], feeds)[0]
        return tuple(found.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle and self.memory[0] and set(self.addresses) == set(self.engine.modes)
        trt, name = self.engine.trt, self.engine.name
        trt.events.append(f"run {name}")
        if trt.fails == name:
            return False
        feeds = {}
        for key, shape in self.shapes.items():
            feeds[key] = np.empty(shape, self.engine.types[key][1])
            ctypes.memmove(feeds[key].ctypes.data, self.addresses[key], feeds[key].nbytes)
        (output,) = (key for key, mode in self.engine.modes.items() if mode is TensorIOMode.OUTPUT)
        result: Any = self.engine.session.run([output], feeds)[0]
        if trt.fails == "nan":
            result[0, 0] = np.nan
        if trt.fails == "wrong":
            result *= 1.05
        ctypes.memmove(self.addresses[output], result.ctypes.data, result.nbytes)
        return True
