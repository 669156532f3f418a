"""Makes graphs of a bundle's towers on the machine that uses the bundle, into the user's data directory."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.bundle import Bundle
from valley2_edge.errors import ExportError
from valley2_edge.export.control import Progress, no_progress
from valley2_edge.export.vision.graphs import make_graph
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.onnx.graph_cache import GraphCache, graph_name
from valley2_edge.runtime.onnx.graph_files import graph_key


def make_local_graph(bundle: Bundle, component: ComponentName, progress: Progress = no_progress) -> Path:
    """Makes the graph of a tower and keeps it in the user's data directory.

    Args:
        bundle: An opened bundle whose files were hashed.
        component: siglip, projector or eagle.
        progress: Called with a stage, the number of finished steps and the number of all steps.

    Returns:
        The graph's file, its weights beside it.

    Raises:
        BundleError: The tower's file is damaged or has changed.
        ExportError: The bundle has no such component, its tower is int8, or the graph does not compute what it does.
        OSError: The data directory cannot be written.
    """
    key = graph_key(bundle, component)
    if key is None:
        raise ExportError(f"{bundle.directory} has no {component} tower")
    (tower,) = getattr(bundle.manifest, component).files
    cache = GraphCache()
    with cache.making(key) as folder, bundle.unchanged(tower):
        make_graph(
            bundle.path(tower), component, bundle.manifest.architecture, folder / graph_name(component), progress
        )
    return cache.directory / key.folder / graph_name(component)
