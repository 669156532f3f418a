"""Finds the ONNX graph of a vision component: in the bundle itself, or among those that this machine has made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BundleError, EngineError
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.onnx.graph_cache import GraphCache, GraphKey, KeptGraph


def graph_files(bundle: Bundle, component: ComponentName) -> Path | None:
    """Where the graph of a component lies: the bundle's own, or else one that was made from its tower.

    Args:
        bundle: An opened bundle.
        component: siglip, projector or eagle.

    Returns:
        The `.onnx` file, its weights beside it; None: there is none, or the bundle has no such component.
    """
    own = own_graph(bundle, component)
    if own:
        return bundle.path(own[0])
    kept = _kept(bundle, component)
    return None if kept is None else kept.path


@contextmanager
def graph_to_open(bundle: Bundle, component: ComponentName) -> Iterator[Path]:
    """The graph of a component, for a library that opens it by its path inside of the block.

    Args:
        bundle: An opened bundle.
        component: siglip, projector or eagle.

    Raises:
        EngineError: There is no graph; the text is a part of a sentence, which says how to make one.
        BundleError: The graph is not the one that was checked.
    """
    own = own_graph(bundle, component)
    if own:
        with bundle.unchanged(*own):
            yield bundle.path(own[0])
        return
    kept = _kept(bundle, component)
    if kept is None:
        raise EngineError(f"there is no ONNX graph: run `valley2-edge engines onnx {bundle.directory}`")
    yield kept.path
    if not kept.unchanged:
        raise BundleError(f"{kept.path} was changed while it was opened; try again when nothing writes to it")


def own_graph(bundle: Bundle, component: ComponentName) -> list[str]:
    """The files of a component's graph in the bundle itself, the graph first; empty without graphs.

    Args:
        bundle: An opened bundle.
        component: siglip, projector or eagle.
    """
    return (bundle.manifest.graphs or {}).get(component, [])


def graph_key(bundle: Bundle, component: ComponentName) -> GraphKey | None:
    """The key under which a graph is kept that was made from a bundle's tower; None: the bundle has no such component.

    Args:
        bundle: An opened bundle.
        component: siglip, projector or eagle.
    """
    tower = getattr(bundle.manifest, component)
    return None if tower is None else GraphKey(component, bundle.manifest.files[tower.files[0]].sha256)


def _kept(bundle: Bundle, component: ComponentName) -> KeptGraph | None:
    key = graph_key(bundle, component)
    return None if key is None else GraphCache().find(key)
