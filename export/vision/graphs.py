"""Makes the ONNX graph of a native tower, and compares the two; needs onnx and ONNX Runtime, and no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ValidationError

from valley2_edge.config import EagleConfig, ModelConfig, ProjectorConfig, SiglipConfig, first_problem
from valley2_edge.errors import BundleError, ExportError, InputError
from valley2_edge.export.control import Progress, no_progress
from valley2_edge.export.onnx.session import open_session
from valley2_edge.export.vision.onnx_eagle import write_eagle
from valley2_edge.export.vision.onnx_projector import write_projector
from valley2_edge.export.vision.onnx_siglip import write_siglip
from valley2_edge.export.vision.sample_inputs import Inputs, random_inputs
from valley2_edge.export.vision.tower_reader import TowerReader
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.runtime.core.vision_engine import ComponentName

LARGEST_DIFFERENCE = 1e-4
"""Largest difference of a graph from its tower, as norm over norm; both compute in float32 with equal weights."""
_FLOAT_ISAS = ("auto", "avx2", "neon", "portable")
"""Instruction sets of the core in order of preference; one that multiplies in bf16 is not taken."""

Array = NDArray[np.float32]


def make_graph(
    source: Path, component: ComponentName, config: ModelConfig, path: Path, progress: Progress = no_progress
) -> None:
    """Writes the graph of a tower, and compares it with the tower on random inputs of several shapes.

    Args:
        source: The tower's file, in bf16 or fp32.
        component: "siglip", "projector" or "eagle".
        config: The architecture that the tower belongs to.
        path: The graph's file; the weights go into one beside it, with `.data` added to its name.
        progress: Called with the component's stage, the number of finished steps and the number of all steps.

    Raises:
        BundleError: The tower's file is damaged or of another architecture.
        ExportError: The tower is int8, or the graph does not compute what the tower does.
        OSError: The files cannot be written.
    """
    write_graph(source, component, path, progress)
    onnx.checker.check_model(str(path), full_check=True)
    difference = _largest_difference(source, component, config, path, progress)
    # Written so that a NaN fails as well.
    if not difference <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"{path.name} differs from {source.name} by {difference:.2e}, more than {LARGEST_DIFFERENCE:.0e}"
        )


def write_graph(source: Path, component: ComponentName, path: Path, progress: Progress = no_progress) -> None:
    """Writes the graph of a tower, whose weights have the tower's bits.

    Args:
        source: As in `make_graph`.
        component: As in `make_graph`.
        path: As in `make_graph`.
        progress: As in `make_graph`.

    Raises:
        BundleError: The tower's file is damaged.
        ExportError: The tower is int8.
        OSError: The files cannot be written.
    """
    stage, done = f"{component}: graph", 0

    def on_matrix() -> None:
        nonlocal done
        done += 1
        progress(stage, done, tower.matrix_count)

    tower = TowerReader(source, component, on_matrix)
    progress(stage, 0, tower.matrix_count)
    try:
        if component == "siglip":
            write_siglip(tower, SiglipConfig(**tower.config), path)
        elif component == "projector":
            sizes = dict(tower.config)
            side = sizes.pop("patches_per_side", None)
            if not isinstance(side, int):
                raise BundleError(f"{source} does not say how many patches a tile has; export the bundle again")
            write_projector(tower, ProjectorConfig(**sizes), side, path)
        else:
            write_eagle(tower, EagleConfig(**tower.config), path)
    except ValidationError as error:
        raise BundleError(f"{source}: {first_problem(error)}; export the bundle again") from error


def _largest_difference(
    source: Path, component: ComponentName, config: ModelConfig, path: Path, progress: Progress
) -> float:
    cases = list(random_inputs(config, component))
    stage, steps, done = f"{component}: check of the graph", 2 * len(cases), 0
    progress(stage, 0, steps)
    expected = []
    with _open_in_floats(source) as tower:
        for inputs in cases:
            expected.append(_run_tower(tower, inputs))
            done += 1
            progress(stage, done, steps)
    session, largest = open_session(path), 0.0
    for inputs, reference in zip(cases, expected, strict=True):
        output: Array = session.run(None, inputs)[0]
        if output.size != reference.size:
            raise ExportError(f"{path.name} computes {output.size} numbers, {source.name} {reference.size}")
        distance = np.linalg.norm((output.ravel() - reference).astype(np.float64))
        largest = float(np.maximum(largest, distance / np.linalg.norm(reference.astype(np.float64))))
        done += 1
        progress(stage, done, steps)
    return largest


def _open_in_floats(source: Path) -> Tower:
    """The tower in the best instruction set that multiplies in float32; all of a visual vocabulary counts."""
    for isa in _FLOAT_ISAS:
        try:
            tower = Tower(source, isa=isa, whole_vocabulary=True)
        except InputError:
            continue  # this machine lacks it
        if not tower.description.bf16_arithmetic:
            return tower
        tower.close()
    raise ExportError(f"The core computes {source.name} in bf16 only on this machine.")


def _run_tower(tower: Tower, inputs: Inputs) -> Array:
    values = next(inputs[name] for name in ("tiles", "features", "patches") if name in inputs)
    return tower.run(values, inputs.get("positions"))
