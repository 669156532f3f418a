"""The components of the vision half: their names, and the shapes of what goes in and comes out."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from valley2_edge.config import ModelConfig

Array = NDArray[np.float32]
EngineInputs = dict[str, NDArray[Any]]
"""`tiles`, `features`, or `patches` and `positions`."""
ComponentName = Literal["siglip", "projector", "eagle"]

NATIVE_SUFFIX = ".safetensors"

NATIVE = "native"
"""The core's own towers, where the name of a backend is asked for."""
TENSORRT = "TensorRT"
"""The name of the backend that computes in fp16 on a GPU."""

_CHANNELS = 3


def input_shape(component: ComponentName, architecture: ModelConfig, count: int) -> tuple[int, ...]:
    """The shape of the values that a component takes.

    Args:
        component: siglip, projector or eagle.
        architecture: The bundle's architecture.
        count: Number of tiles, features or patches.
    """
    siglip, eagle = architecture.siglip, architecture.eagle
    if component == "siglip":
        return count, _CHANNELS, siglip.image_size, siglip.image_size
    if component == "projector":
        return count, siglip.patches_per_side**2, siglip.hidden_size
    return count, 0 if eagle is None else _CHANNELS * eagle.patch_size**2


def inputs_of(
    component: ComponentName, architecture: ModelConfig, values: Array, positions: NDArray[np.int64] | None
) -> EngineInputs:
    """The inputs of an ONNX graph by their names.

    Args:
        component: siglip, projector or eagle.
        architecture: The bundle's architecture.
        values: (count, numbers in one of them): tiles, features or patches.
        positions: (count, 2): row and column of each patch; Eagle only.
    """
    shaped = values.reshape(input_shape(component, architecture, len(values)))
    if component == "eagle" and positions is not None:
        return {"patches": shaped, "positions": positions}
    return {"tiles" if component == "siglip" else "features": shaped}


def output_shape(component: ComponentName, architecture: ModelConfig, count: int) -> tuple[int, ...]:
    """The shape of what a component computes.

    Args:
        component: siglip, projector or eagle.
        architecture: The bundle's architecture.
        count: Number of tiles, features or patches.
    """
    siglip, projector, eagle = architecture.siglip, architecture.projector, architecture.eagle
    if component == "siglip":
        return count, siglip.patches_per_side**2, siglip.hidden_size
    if component == "projector":
        return count, projector.tokens_per_side**2, projector.output_size
    return (0, 0) if eagle is None else (count // eagle.spatial_merge_size**2, eagle.hidden_size)
