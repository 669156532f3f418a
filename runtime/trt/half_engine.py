"""Builds an engine in fp16, but for what would overflow; needs onnx, which nothing else at run time does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from valley2_edge.errors import EngineError
from valley2_edge.runtime.trt.activation_ranges import Feeds, nodes_beyond_half
from valley2_edge.runtime.trt.api import TensorRt
from valley2_edge.runtime.trt.build import Profile, Progress, build_engine
from valley2_edge.runtime.trt.half_precision import to_half


def build_half_engine(
    trt: TensorRt,
    path: Path,
    profile: Profile,
    samples: Feeds,
    compute_capability: str | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Builds an engine that computes in fp16 but for the nodes that overflow on samples.

    Args:
        trt: From `load_tensorrt`.
        path: A vision graph, its weights beside it.
        profile: The shapes that it shall take.
        samples: Inputs with which the overflow is looked for, as `nodes_beyond_half` does.
        compute_capability: As in `build_engine`.
        progress: As in `build_engine`.

    Raises:
        EngineError: TensorRT refuses the graph, the profile or the target, or the graph in fp16 cannot be written.
    """
    kept = nodes_beyond_half(path, samples)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        try:
            half = to_half(
                onnx.load(str(path), load_external_data=False), kept, path.parent, file.with_name(f"{path.name}.half")
            )
            onnx.save(half, str(file))
        except OSError as error:
            raise EngineError(f"its graph in fp16 cannot be written: {error}") from error
        del half
        return build_engine(trt, file, profile, compute_capability, progress)
