"""The part of TensorRT's Python interface that is used; TensorRT 10, 11 and TensorRT-RTX share it, all untyped."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

from valley2_edge.errors import EngineError

Flavour = Literal["tensorrt_rtx", "tensorrt"]
"""The module's name."""


class Profile(Protocol):
    """IOptimizationProfile."""

    def set_shape(self, name: str, smallest: Sequence[int], usual: Sequence[int], largest: Sequence[int]) -> None:
        """Which shapes of an input the engine takes."""


class BuilderConfig(Protocol):
    """IBuilderConfig."""

    progress_monitor: Any
    num_compute_capabilities: int
    """Number of kinds of GPU to build for, with TensorRT-RTX alone; TensorRT builds for the GPU that it finds."""

    def add_optimization_profile(self, profile: Profile) -> int:
        """Adds a profile; -1 when it is refused."""

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        """One of the targets."""


class Builder(Protocol):
    """Builder."""

    def create_network(self, flags: int) -> Any:
        """An empty network."""

    def create_builder_config(self) -> BuilderConfig:
        """Settings of a build."""

    def create_optimization_profile(self) -> Profile:
        """An empty profile."""

    def build_serialized_network(self, network: Any, config: BuilderConfig) -> Any:
        """The engine's bytes; None when the build failed."""


class ExecutionContext(Protocol):
    """IExecutionContext."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """The shape of an input of the next run; False: the profile does not hold it."""

    def infer_shapes(self) -> list[str]:
        """Names of what is still missing."""

    def update_device_memory_size_for_shapes(self) -> int:
        """Bytes of activations for the shapes that were set."""

    def set_device_memory(self, memory: int, size: int) -> None:
        """Where activations lie."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """The shape of an output, once all inputs have theirs."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where an input or output lies."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Puts the run into a stream of the driver."""


class Engine(Protocol):
    """ICudaEngine."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """The name of an input or output."""

    def get_tensor_mode(self, name: str) -> Any:
        """TensorIOMode."""

    def get_tensor_dtype(self, name: str) -> Any:
        """DataType."""

    def create_runtime_config(self) -> Any:
        """IRuntimeConfig; TensorRT-RTX keeps what it compiles for the GPU in a cache of it."""

    def create_execution_context(self, strategy: Any) -> ExecutionContext | None:
        """Takes an allocation strategy, or an IRuntimeConfig."""


class TensorRt(Protocol):
    """The module."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: Any
    ComputeCapability: Any
    OnnxParser: Any
    ExecutionContextAllocationStrategy: Any
    TensorIOMode: Any

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        """Reads engines."""

    def Builder(self, logger: Any) -> Builder:  # noqa: N802
        """A builder."""


TITLES: dict[Flavour, str] = {"tensorrt_rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
"""The names that people use."""


def load_tensorrt(flavour: Flavour) -> TensorRt:
    """Imports TensorRT.

    Raises:
        EngineError: It is not installed, or a library of it is missing.
    """
    try:
        return cast(TensorRt, importlib.import_module(flavour))
    except ImportError as error:
        extra = "trt-rtx" if flavour == "tensorrt_rtx" else "trt"
        raise EngineError(f"{flavour} is not to be had ({error}): run `pip install valley2-edge[{extra}]`") from error


def is_installed() -> bool:
    """Whether one of them can be imported."""
    for flavour in TITLES:
        with contextlib.suppress(EngineError):
            load_tensorrt(flavour)
            return True
    return False


def choose_tensorrt(capability: str) -> tuple[Flavour, TensorRt]:
    """TensorRT-RTX where it is installed and knows the GPU, else TensorRT.

    Args:
        capability: The GPU's compute capability, such as "8.6".

    Raises:
        EngineError: Neither is to be had; the text names both reasons.
    """
    reasons = []
    for flavour in TITLES:
        try:
            trt = load_tensorrt(flavour)
        except EngineError as error:
            reasons.append(str(error))
            continue
        if flavour == "tensorrt" or has_target(trt, capability):
            return flavour, trt
        reasons.append(f"TensorRT-RTX {trt.__version__} has no target {capability}")
    raise EngineError("; ".join(reasons))


def has_target(trt: TensorRt, capability: str) -> bool:
    """Whether TensorRT-RTX builds for a compute capability."""
    return hasattr(trt.ComputeCapability, target_name(capability))


def target_name(capability: str) -> str:
    """How TensorRT-RTX calls a compute capability."""
    return f"SM{capability.replace('.', '')}"


def new_logger(trt: TensorRt) -> Any:
    """A logger that writes nothing and keeps the last error, which TensorRT logs instead of raising it."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Its `last` is the first line of the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (self.ERROR, self.INTERNAL_ERROR):
                self.last = message.strip().splitlines()[0]

    return Logger()
