"""Builds TensorRT engines of a bundle's vision graphs, whose types are those of the graph (docs/tensorrt.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from valley2_edge.config import ModelConfig
from valley2_edge.errors import EngineError, InputError
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.trt.api import BuilderConfig, TensorRt, has_target, new_logger, target_name

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""The smallest, the usual and the largest shape of each input."""
Progress = Callable[[str, int, int], bool | None]
"""Called with a phase of the build, the steps done and the steps in all; returning False stops it."""

MOST_TILES = 9
_CHANNELS = 3
_USUAL_EAGLE_TOKENS = 256


def vision_profile(config: ModelConfig, component: ComponentName, most_eagle_tokens: int) -> Profile:
    """The shapes that a session's caps allow.

    Args:
        config: The model's.
        component: "siglip", "projector" or "eagle".
        most_eagle_tokens: The cap of a picture, as `Policy.eagle_tokens` has it; four patches are a token.

    Raises:
        InputError: The cap is below 1.
        EngineError: The model has no such component.
    """
    if most_eagle_tokens < 1:
        raise InputError(f"A picture has at least 1 Eagle token, not {most_eagle_tokens}.")
    siglip = config.siglip
    if component == "siglip":
        tail: Shape = (_CHANNELS, siglip.image_size, siglip.image_size)
        return {"tiles": ((1, *tail), (1, *tail), (MOST_TILES, *tail))}
    if component == "projector":
        tail = (siglip.patches_per_side**2, siglip.hidden_size)
        return {"features": ((1, *tail), (1, *tail), (MOST_TILES, *tail))}
    if config.eagle is None:
        raise EngineError("The model has no Eagle tower.")
    merged = config.eagle.spatial_merge_size**2
    counts = [merged * tokens for tokens in (1, min(_USUAL_EAGLE_TOKENS, most_eagle_tokens), most_eagle_tokens)]
    width = _CHANNELS * config.eagle.patch_size**2
    patches, positions = ([(count, columns) for count in counts] for columns in (width, 2))
    return {
        "patches": (patches[0], patches[1], patches[2]),
        "positions": (positions[0], positions[1], positions[2]),
    }


def build_engine(
    trt: TensorRt,
    path: Path,
    profile: Profile,
    compute_capability: str | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Builds an engine whose types are those of the graph.

    Args:
        trt: From `load_tensorrt`.
        path: The graph, its weights beside it; opset 21 at most.
        profile: The shapes that it shall take.
        compute_capability: The GPU's, such as "8.6", with TensorRT-RTX, which needs no GPU to build; None: the GPU of
            this machine. 7.5 takes no float32 products.
        progress: Called with each phase of the build.

    Raises:
        EngineError: TensorRT refuses the graph, the profile or the target; the text is its own.
    """
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    strict = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strict is None else 1 << int(strict))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot read {path.name}: {reasons}")
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in profile.items():
        shapes.set_shape(name, smallest, usual, largest)
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"TensorRT refuses the shapes of {path.name}: {logger.last or profile}")
    _set_target(trt, config, compute_capability)
    monitor = None if progress is None else _new_monitor(trt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.error is not None:
        raise monitor.error
    if engine is None:
        raise EngineError(f"TensorRT could not build {path.name}: {logger.last or 'it gives no reason'}")
    return bytes(engine)


def _set_target(trt: TensorRt, config: BuilderConfig, compute_capability: str | None) -> None:
    if compute_capability is None:
        return
    if not hasattr(trt, "ComputeCapability"):
        raise EngineError("TensorRT builds for the GPU of this machine; only TensorRT-RTX takes another target")
    if not has_target(trt, compute_capability):
        raise EngineError(f"TensorRT-RTX {trt.__version__} has no target {compute_capability}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target_name(compute_capability)), 0)


def _new_monitor(trt: TensorRt, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Hands the steps on; an exception of the receiver stops the build and is raised behind it."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            self._report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            return self._report(phase, step + 1)

        def phase_finish(self, phase: str) -> None:
            self._report(phase, self._steps[phase])

        def _report(self, phase: str, done: int) -> bool:
            if self.error is not None:
                return False
            try:
                return progress(phase, min(done, self._steps[phase]), self._steps[phase]) is not False
            except BaseException as error:  # nothing may unwind through TensorRT's frames
                self.error = error
                return False

    return Monitor()
