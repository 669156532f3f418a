"""What the vision encoder asks of an engine, whoever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import VisionComponent
from valley2_edge.errors import InputError
from valley2_edge.option_checks import check_choice
from valley2_edge.options import VisionEngineName
from valley2_edge.runtime.cancellation import CancelToken

Array = NDArray[np.float32]
EngineInputs = dict[str, NDArray[Any]]
ComponentName = Literal["siglip", "projector", "eagle"]

NATIVE_SUFFIX = ".safetensors"


class VisionEngine(Protocol):
    """One tower of a bundle, loaded."""

    @property
    def providers(self) -> list[str]:
        """What computes it: ONNX Runtime's providers, the core's instruction set, or TensorRT."""

    def run(self, inputs: EngineInputs, cancel: CancelToken | None) -> Array:
        """Computes one call.

        Args:
            inputs: `tiles`, `features`, or `patches` and `positions`.
            cancel: Stops it.

        Raises:
            Cancelled: The token was set.
            NumericError: A NaN or an infinity.
            BudgetError: The memory does not suffice.
        """

    def close(self) -> None:
        """Gives the weights back."""


def is_native(component: VisionComponent) -> bool:
    """Whether a component is a tower of the native core and not an ONNX graph."""
    return component.files[0].endswith(NATIVE_SUFFIX)


def check_engine(wanted: VisionEngineName, components: Sequence[VisionComponent | None]) -> None:
    """Fails where a bundle has not what the caller wants.

    Raises:
        InputError: The name means nothing, or the bundle lacks it; the text says how to get it.
    """
    check_choice("vision_engine", wanted, get_args(VisionEngineName))
    kinds = {is_native(component) for component in components if component is not None}
    if wanted == "native" and kinds == {False}:
        raise InputError("The bundle has no native vision towers: export it with --vision-precision int8 or bf16.")
    if wanted in ("onnx", "tensorrt") and True in kinds:
        title = "ONNX Runtime" if wanted == "onnx" else "TensorRT"
        raise InputError(f"The bundle has native vision towers: export it with --vision-precision fp16 for {title}.")
