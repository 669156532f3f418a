"""TensorRT as a backend of vision components: TensorRT-RTX or TensorRT, whichever is for this machine's GPU."""

from __future__ import annotations

from collections.abc import Callable

from valley2_edge.bundle import Bundle
from valley2_edge.errors import EngineError
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost, BackendEngine
from valley2_edge.runtime.core.vision_backend import VisionBackend
from valley2_edge.runtime.core.vision_engine import TENSORRT
from valley2_edge.runtime.progress import ProgressCallback
from valley2_edge.runtime.trt.platform import Platform, open_platform
from valley2_edge.runtime.trt.tower import TensorRtTower
from valley2_edge.runtime.trt.vision_cost import vision_cost


class TensorRtBackend(VisionBackend):
    """Engines on the GPU.

    Args:
        bundle: Whose components they compute.
    """

    name = TENSORRT

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._platform: Platform | None = None
        self._towers: dict[str, TensorRtTower] = {}

    def start(self) -> None:
        """Finds the GPU, and TensorRT for it."""
        if self._platform is None:
            self._platform = open_platform()

    def open(self, component: BackendComponent) -> BackendEngine:
        """Opens a component; its engine is loaded when `prepare` or a run says for how many tiles or patches."""
        if component == "decoder":
            raise EngineError("it has no decoder")
        self.start()
        assert self._platform is not None  # start has found it
        self._towers[component] = TensorRtTower(self._platform, self._bundle, component)
        return self._towers[component]

    def prepare(
        self, component: BackendComponent, rows: int, report: ProgressCallback, stopped: Callable[[], bool]
    ) -> None:
        """Loads an engine for inputs of so many tiles or patches, and builds it first where there is none."""
        self._towers[component].prepare(rows, report, stopped)

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        """What an engine takes."""
        return vision_cost(self._bundle, component, count)

    def computed_by(self, component: BackendComponent) -> list[str]:
        """TensorRT and its version."""
        return [self.name if self._platform is None else self._platform.title]

    def stop(self) -> None:
        """Gives the GPU's context back."""
        self._towers.clear()
        if self._platform is not None:
            self._platform.close()
            self._platform = None
