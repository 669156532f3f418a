"""Which engine computes the vision half of a bundle, by the name that a caller gives."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from valley2_edge.backends import backend_factory
from valley2_edge.bundle import Bundle
from valley2_edge.errors import InputError
from valley2_edge.option_checks import check_choice
from valley2_edge.options import LoadOptions, engine_names
from valley2_edge.runtime.core.vision_backend import PlainBackend, VisionBackend

if TYPE_CHECKING:
    from valley2_edge.runtime.core.vision_engine import ComponentName

_WITHOUT_PROVIDERS = ("auto", "native", "tensorrt")
_COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")


def vision_backend(bundle: Bundle, options: LoadOptions) -> VisionBackend | None:
    """The backend that an engine's name stands for, nothing of it opened yet.

    Args:
        bundle: Whose components it is to compute.
        options: The options of loading: `vision_engine`, and with what it computes.

    Returns:
        The backend; None: the core's own towers.

    Raises:
        InputError: There is no engine of that name, or the factory of a registered one refuses.
    """
    name = options.vision_engine
    check_choice("vision_engine", name, engine_names())
    if name in ("auto", "native"):
        return None
    if name == "onnx":
        from valley2_edge.runtime.vision.onnx_backend import OnnxVisionBackend

        return OnnxVisionBackend(bundle, threads=options.threads, providers=options.providers)
    if name == "tensorrt":
        from valley2_edge.runtime.trt.backend import TensorRtBackend

        return TensorRtBackend(bundle)
    backend = backend_factory(name)(bundle, options)
    return backend if isinstance(backend, VisionBackend) else PlainBackend(backend)


def check_vision_engine(bundle: Bundle, options: LoadOptions) -> None:
    """Refuses an engine for which the installation or the bundle lacks something that the user can get.

    Args:
        bundle: Whose components it is to compute.
        options: The options of loading.

    Raises:
        InputError: Something is missing; the sentence says how to get it. Or nothing would use the `providers`.
    """
    name = options.vision_engine
    check_choice("vision_engine", name, engine_names())
    if options.providers is not None and bundle.manifest.decoder.engine == "native" and name in _WITHOUT_PROVIDERS:
        raise InputError(
            "providers are of ONNX Runtime, which computes nothing here: choose the vision_engine onnx as well."
        )
    if name == "onnx" and find_spec("onnxruntime") is None:
        from valley2_edge.runtime.onnx.onnx_runtime import NOT_INSTALLED

        raise InputError(NOT_INSTALLED)
    missing = _without_graph(bundle, _present(bundle)) if name in ("onnx", "tensorrt") else []
    if missing and name == "tensorrt":
        from valley2_edge.runtime.trt.cache import EngineCache, graph_digest

        built = {entry.key.graph for entry in EngineCache().entries()}
        missing = [component for component in missing if graph_digest(bundle, component) not in built]
    if missing:
        raise InputError(
            f"There is no ONNX graph of {', '.join(missing)}: run `valley2-edge engines onnx {bundle.directory}`."
        )


def _present(bundle: Bundle) -> list[ComponentName]:
    return [component for component in _COMPONENTS if getattr(bundle.manifest, component) is not None]


def _without_graph(bundle: Bundle, components: Sequence[ComponentName]) -> list[ComponentName]:
    from valley2_edge.runtime.onnx.graph_files import graph_files

    return [component for component in components if graph_files(bundle, component) is None]
