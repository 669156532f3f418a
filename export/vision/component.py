"""Exports a vision component to a native tower, and compares it with torch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from valley2_edge.bundle import VisionComponent
from valley2_edge.config import EagleConfig, ModelConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import (
    eagle_tensors,
    projector_tensors,
    siglip_tensors,
)
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.control import Progress, no_progress
from valley2_edge.export.vision.native_eagle import write_native_eagle
from valley2_edge.export.vision.native_file import precision_beside_int8
from valley2_edge.export.vision.native_projector import write_native_projector
from valley2_edge.export.vision.native_siglip import write_native_siglip
from valley2_edge.export.vision.sample_inputs import Inputs, random_inputs
from valley2_edge.precisions import LARGEST_VISION_ERROR, VisionPrecision
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.runtime.core.vision_engine import NATIVE_SUFFIX, ComponentName

Array = NDArray[np.float32]


def export_vision(
    checkpoint: Checkpoint,
    component: ComponentName,
    directory: Path,
    precision: VisionPrecision,
    progress: Progress | None = None,
) -> VisionComponent:
    """Writes a native tower into `vision/`, and compares it with torch on random inputs of several shapes.

    Memory is bounded by one tensor while writing, and by one float32 copy of the component while checking: torch and
    the core never hold it at the same time.

    Args:
        checkpoint: Where the weights come from.
        component: "siglip", "projector" or "eagle".
        directory: The bundle under construction; `vision` is made in it.
        precision: Precision of the matrices; a projector is bf16 beside towers in int8.
        progress: Called with the component's stage, the number of finished steps and the number of all steps.

    Returns:
        The component's entry in the manifest.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: The component is not in this model, a number is not finite, or the error is too large.
        OSError: The file cannot be written.
    """
    config = checkpoint.config
    if component == "eagle" and config.eagle is None:
        raise ExportError(f"The checkpoint {checkpoint.name} has no Eagle tower to export.")
    if component == "projector":
        precision = precision_beside_int8(precision)
    path = directory / "vision" / f"{component}{NATIVE_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = progress or no_progress
    _write(checkpoint, component, path, precision, report)
    error = relative_error(checkpoint, component, path, report)
    # Written so that a NaN fails as well.
    largest = LARGEST_VISION_ERROR[precision]
    if not error <= largest:
        finer = "" if precision == "fp32" else "; choose a finer --vision-precision"
        raise ExportError(
            f"{path.name} in {precision} differs from torch by {error:.2e}, more than {largest:.0e}{finer}."
        )
    return VisionComponent(precision=precision, files=[path.relative_to(directory).as_posix()], relative_error=error)


def relative_error(checkpoint: Checkpoint, component: ComponentName, path: Path, progress: Progress) -> float:
    """Compares a finished component with torch on random inputs of several shapes.

    Args:
        checkpoint: Where the weights of the torch reference come from.
        component: "siglip", "projector" or "eagle".
        path: The tower.
        progress: Called after every run of the reference and of the component.

    Returns:
        The largest norm of the difference over the norm of the reference's output.

    Raises:
        CheckpointError: A tensor cannot be read.
        BundleError: The native core does not take the file.
    """
    cases = list(random_inputs(checkpoint.config, component))
    steps = 2 * len(cases)
    progress(f"{component}: check", 0, steps)
    expected: list[Array] = []
    reference = _reference(checkpoint, component)
    for inputs in cases:
        expected.append(reference(inputs))
        progress(f"{component}: check", len(expected), steps)
    # The reference's weights are freed before the core maps the tower's.
    del reference
    gc.collect()
    run = open_component(path, component, checkpoint.config)
    largest = 0.0
    for index, (inputs, reference_output) in enumerate(zip(cases, expected, strict=True)):
        output = run(inputs)
        difference = np.linalg.norm((output - reference_output).astype(np.float64))
        largest = float(np.maximum(largest, difference / np.linalg.norm(reference_output.astype(np.float64))))
        progress(f"{component}: check", len(cases) + index + 1, steps)
    return largest


def open_component(path: Path, component: ComponentName, config: ModelConfig) -> Callable[[Inputs], Array]:
    """Opens a finished component for the exporter's own checks.

    Args:
        path: The tower.
        component: "siglip", "projector" or "eagle".
        config: The architecture.

    Returns:
        A function from the inputs by name to the output, float32.

    Raises:
        BundleError: The native core does not take the file.
    """
    tower = Tower(path, component, config)
    return lambda inputs: tower.run(_values_of(inputs), inputs.get("positions"))


def _values_of(inputs: Inputs) -> Array:
    return next(values for name, values in inputs.items() if name != "positions")


def _write(
    checkpoint: Checkpoint, component: ComponentName, path: Path, precision: VisionPrecision, progress: Progress
) -> None:
    config, stage, done = checkpoint.config, f"{component}: weights", 0
    total = _tensor_count(config, component)
    progress(stage, 0, total)

    def on_tensor() -> None:
        nonlocal done
        done += 1
        progress(stage, done, total)

    weights = Weights(checkpoint, on_tensor)
    if component == "siglip":
        write_native_siglip(weights, config.siglip, path, precision)
    elif component == "projector":
        write_native_projector(weights, config.projector, config.siglip, path, precision)
    else:
        write_native_eagle(weights, _eagle(config), path, precision)


def _tensor_count(config: ModelConfig, component: ComponentName) -> int:
    if component == "siglip":
        return len(siglip_tensors(config.siglip))
    if component == "projector":
        return len(projector_tensors(config.projector))
    return len(eagle_tensors(_eagle(config)))


def _eagle(config: ModelConfig) -> EagleConfig:
    if config.eagle is None:
        raise ExportError("The model has no Eagle tower.")
    return config.eagle


def _reference(checkpoint: Checkpoint, component: ComponentName) -> Callable[[Inputs], Array]:
    # Imported here because transformers takes seconds to load, and a graph can be written without it.
    from valley2_edge.export.vision.torch_reference import load_eagle, load_projector, load_siglip

    if component == "eagle":
        eagle = load_eagle(checkpoint, _eagle(checkpoint.config))

        def run_eagle(inputs: Inputs) -> Array:
            rows, columns = (int(last) + 1 for last in inputs["positions"].max(axis=0))
            with torch.inference_mode():
                return np.asarray(eagle(torch.from_numpy(inputs["patches"]), rows, columns).numpy())

        return run_eagle
    module = load_siglip(checkpoint) if component == "siglip" else load_projector(checkpoint)

    def run(inputs: Inputs) -> Array:
        (value,) = inputs.values()
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(value)).numpy())

    return run
