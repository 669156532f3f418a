"""The part of TensorRT's Python interface that is used; TensorRT 10, 11 and TensorRT-RTX share it, all untyped."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

from valley2_edge.errors import ExportError

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
    """Of TensorRT-RTX alone; TensorRT builds for the GPU that it finds."""

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


class TensorRt(Protocol):
    """The module."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: Any
    ComputeCapability: Any
    OnnxParser: Any

    def Builder(self, logger: Any) -> Builder:  # noqa: N802
        """A builder."""


def load_tensorrt(flavour: Flavour) -> TensorRt:
    """Imports TensorRT.

    Raises:
        ExportError: It is not installed, or a library of it is missing.
    """
    try:
        return cast(TensorRt, importlib.import_module(flavour))
    except ImportError as error:
        extra = "trt-rtx" if flavour == "tensorrt_rtx" else "trt"
        raise ExportError(f"{flavour} is not to be had ({error}): run `pip install valley2-edge[{extra}]`") from error
