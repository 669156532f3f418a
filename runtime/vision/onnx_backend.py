"""Vision components in ONNX Runtime, as the core drives them."""

from __future__ import annotations

from collections.abc import Sequence

from valley2_edge.bundle import Bundle
from valley2_edge.errors import EngineError, InputError
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost, BackendEngine
from valley2_edge.runtime.core.vision_backend import VisionBackend
from valley2_edge.runtime.devices.check import check_provider
from valley2_edge.runtime.devices.driver_cache import keep_driver_caches
from valley2_edge.runtime.onnx.engine import OnnxEngine
from valley2_edge.runtime.onnx.graph_files import graph_to_open
from valley2_edge.runtime.onnx.providers import CPU_PROVIDER, choose_providers
from valley2_edge.runtime.onnx.vision_cost import vision_cost


class OnnxVisionBackend(VisionBackend):
    """ONNX Runtime for the graphs of a bundle.

    Args:
        bundle: Whose graphs are opened, those that lie in it or were made of its towers.
        threads: Number of CPU threads.
        providers: ONNX Runtime's execution providers in order of preference; None: those of this machine that run
            locally without building an engine first.
    """

    name = "ONNX Runtime"

    def __init__(self, bundle: Bundle, *, threads: int, providers: Sequence[str] | None = None) -> None:
        self._bundle = bundle
        self._threads = threads
        self._given = providers
        self._providers: dict[str, list[str]] = {}

    def open(self, component: BackendComponent) -> BackendEngine:
        """Opens a graph; a provider that computes wrong is refused.

        Raises:
            InputError: A provider that was named computes wrong, or is unknown to this ONNX Runtime.
            BundleError: The graph cannot be loaded.
            EngineError: A provider that nobody named computes wrong, or there is no graph.
        """
        if component == "decoder":
            raise EngineError("it has no decoder")
        wanted = choose_providers(self._given)
        if wanted != [CPU_PROVIDER]:
            keep_driver_caches()
        architecture = self._bundle.manifest.architecture
        with graph_to_open(self._bundle, component) as path:
            engine = OnnxEngine(path, component, architecture, threads=self._threads, providers=wanted)
        try:
            check_provider(self._bundle, component, engine, self._threads)
        except EngineError as error:
            engine.close()
            if self._given is not None:
                text = f"The {component} engine is not left to a device that computes wrong: {error}."
                raise InputError(text) from error
            raise
        self._providers[component] = engine.providers
        return engine

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What a graph takes on the processor."""
        return vision_cost(self._bundle, component, count)

    def computed_by(self, component: BackendComponent) -> list[str]:
        """The execution providers."""
        return self._providers.get(component, [self.name])
