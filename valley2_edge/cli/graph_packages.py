"""The packages that make ONNX graphs of vision towers, which the base installation leaves out."""

from __future__ import annotations

import importlib.util

from valley2_edge.errors import ExportError

GRAPH_PACKAGES = ("onnx", "onnxruntime")
"""The one writes graphs, the other computes them for the comparison with their towers."""


def require_graph_packages() -> None:
    """Fails before any work when a package is missing that makes graphs or checks them.

    Raises:
        ExportError: One is missing.
    """
    missing = [name for name in GRAPH_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"making ONNX graphs needs {' and '.join(missing)}, which the base installation leaves out; "
            "run `pip install 'valley2-edge[onnx]'`"
        )
