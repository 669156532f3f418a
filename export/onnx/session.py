"""Opens a graph that was just written for a check: on the processor, with little memory besides its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from valley2_edge.errors import ExportError
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Loads a graph for a handful of runs.

    Args:
        path: The .onnx file; its data file lies in the same directory.

    Raises:
        ExportError: ONNX Runtime does not take the graph.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights would be a second copy
    options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors share no base class of their own.
    except Exception as error:
        raise ExportError(f"ONNX Runtime does not take {path.name}: {error}") from error
