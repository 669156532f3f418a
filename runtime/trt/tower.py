"""A vision component in TensorRT: its engine is taken from the cache, or built first."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from valley2_edge.bundle import Bundle
from valley2_edge.errors import Cancelled, EngineError, Valley2Warning
from valley2_edge.policy import EAGLE_CAPS
from valley2_edge.runtime.core.backend import BackendRun
from valley2_edge.runtime.core.vision_engine import Array, ComponentName, EngineInputs, inputs_of
from valley2_edge.runtime.devices.check import HALF_BOUND, vision_distance
from valley2_edge.runtime.devices.checked import DeviceEngine, require_right
from valley2_edge.runtime.devices.samples import Feed, sample_inputs
from valley2_edge.runtime.onnx.graph_files import graph_to_open
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.trt.api import TITLES, Flavour, TensorRt
from valley2_edge.runtime.trt.build import MOST_TILES, Progress, build_engine, vision_profile
from valley2_edge.runtime.trt.cache import EngineCache, EngineKey, graph_digest
from valley2_edge.runtime.trt.engine import LoadedEngine
from valley2_edge.runtime.trt.platform import Platform

USUAL_EAGLE_TOKENS = EAGLE_CAPS["balanced"]
"""An engine for fewer is not built, unless somebody asks for it."""


class TensorRtTower:
    """One component of a bundle on the GPU; what a backend opens.

    Args:
        platform: The GPU and TensorRT.
        bundle: Whose graph is built where the cache has no engine.
        name: siglip, projector or eagle.
    """

    def __init__(self, platform: Platform, bundle: Bundle, name: ComponentName) -> None:
        self._platform = platform
        self._bundle = bundle
        self._name = name
        self._cache = EngineCache()
        self._key: EngineKey | None = None
        self._engine: LoadedEngine | None = None

    def prepare(
        self,
        rows: int,
        report: ProgressCallback = ignore_progress,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Loads an engine for inputs of so many tiles or patches, and builds it first where there is none.

        Args:
            rows: Tiles or patches of the largest input.
            report: Told the stage "build" while an engine is built.
            stopped: Asked between two steps of a build; True ends it.

        Raises:
            EngineError: There is no engine; the text is a part of a sentence.
            Cancelled: `stopped` said so.
        """
        if self._key is not None and rows <= self._key.most_rows:
            return
        self.close()
        platform = self._platform
        key = engine_key(self._bundle, self._name, platform.flavour, platform.trt, platform.driver.gpu.capability, rows)
        key = dataclasses.replace(key, gpu=platform.driver.gpu.name, driver=platform.driver.gpu.driver)
        kept = self._cache.find(key)
        if kept is not None:
            try:
                loaded = self._load(key, kept)
            except EngineError:
                # Made by the same versions for the same GPU, and not taken all the same: damaged where it was made.
                self._cache.remove(key)
            else:
                self._require_right(key, loaded)
                return

        def progress(phase: str, done: int, total: int) -> bool:
            report("build", done, total)
            return not stopped()

        with platform.driver.current():
            engine = build_for(platform.trt, self._bundle, key, self._samples, progress)
        try:
            self._cache.store(key, engine)
        except OSError as error:
            message = f"The {self._name} engine cannot be kept for the next time: {error}."
            warnings.warn(message, Valley2Warning, stacklevel=2)
        self._require_right(key, self._load(key, engine))

    def run(self, call: BackendRun) -> None:
        """Computes into `call.output`; a run that has begun is not stopped.

        Raises:
            EngineError: It cannot be computed here; the text is a part of a sentence.
        """
        self.prepare(len(call.values))
        if self._engine is None:
            raise EngineError("it is closed")
        inputs = inputs_of(self._name, self._bundle.manifest.architecture, call.values, call.positions)
        result = _finite(self._engine.run(inputs))
        if result.size != call.output.size:
            raise EngineError(f"it computes {list(result.shape)}, which is not the size of its tokens")
        call.output[:] = result.reshape(-1)

    def cancel(self) -> None:
        """Does nothing: a run takes some milliseconds."""

    def close(self) -> None:
        """Gives the GPU's memory back, and keeps what TensorRT-RTX compiled."""
        if self._engine is None or self._key is None:
            return
        kernels = self._engine.kernels()
        if kernels:
            self._cache.store_kernels(self._key, self._platform.driver.gpu, kernels)
        self._engine.close()
        self._engine = self._key = None

    def _samples(self) -> list[Feed]:
        return sample_inputs(self._bundle, self._name)

    def _load(self, key: EngineKey, engine: bytes) -> LoadedEngine:
        kernels = self._cache.kernels(key, self._platform.driver.gpu)
        self._engine = LoadedEngine(self._platform, engine, kernels)
        self._key = key
        return self._engine

    def _require_right(self, key: EngineKey, engine: LoadedEngine) -> None:
        """Compares the engine with the CPU when it is the first time on this GPU and driver."""
        gpu, title = self._platform.driver.gpu, TITLES[self._platform.flavour]
        content = f"{key.graph} {key.precision} {key.most_rows}"
        about = DeviceEngine(self._name, content, title, key.version, gpu.name, gpu.driver)

        def run(inputs: EngineInputs) -> Array:
            return _finite(engine.run(inputs))

        try:
            require_right(about, HALF_BOUND, lambda: vision_distance(self._bundle, self._name, run))
        except BaseException:
            self.close()
            raise


def engine_key(
    bundle: Bundle,
    component: ComponentName,
    flavour: Flavour,
    trt: TensorRt,
    capability: str,
    rows: int = 1,
    precision: str = "fp16",
) -> EngineKey:
    """The key of the engine that takes inputs of so many rows, for every GPU of a compute capability.

    Args:
        bundle: Whose graph it is.
        component: siglip, projector or eagle.
        flavour: Which TensorRT.
        trt: Its module.
        capability: Such as "8.6".
        rows: Tiles, or Eagle patches; the caps of the presets decide what the engine takes.
        precision: "fp16", or "fp32": the graph as the bundle has it.

    Raises:
        EngineError: No engine takes so many.
    """
    most = MOST_TILES
    if component == "eagle":
        eagle = bundle.manifest.architecture.eagle
        merged = 1 if eagle is None else eagle.spatial_merge_size**2
        caps = sorted(merged * cap for cap in EAGLE_CAPS.values() if cap >= USUAL_EAGLE_TOKENS)
        most = next((cap for cap in caps if cap >= rows), 0)
    if rows > most:
        raise EngineError(f"no engine takes {rows} tiles or patches at once")
    return EngineKey(component, graph_digest(bundle, component), precision, most, capability, flavour, trt.__version__)


def build_for(
    trt: TensorRt,
    bundle: Bundle,
    key: EngineKey,
    samples: Callable[[], list[Feed]],
    progress: Progress | None = None,
) -> bytes:
    """Builds the engine of a key.

    Args:
        trt: The module that the key names.
        bundle: Whose graph the key names.
        key: With TensorRT-RTX its compute capability is built for, with TensorRT the GPU of this machine.
        samples: Makes inputs; where fp16 would overflow on them, float32 stays.
        progress: As in `build_engine`.

    Raises:
        EngineError: The engine cannot be built; the text is a part of a sentence.
        Cancelled: The progress ended the build.
    """
    architecture = bundle.manifest.architecture
    merged = 1 if architecture.eagle is None else architecture.eagle.spatial_merge_size**2
    tokens = key.most_rows // merged if key.component == "eagle" else 1
    profile = vision_profile(architecture, key.component, tokens)
    target = key.capability if key.flavour == "tensorrt_rtx" else None
    watch = _Watch(progress)
    try:
        with graph_to_open(bundle, key.component) as path:
            if key.precision == "fp32":
                return build_engine(trt, path, profile, target, watch)
            if find_spec("onnx") is None:
                raise EngineError("fp16 engines need the onnx package: run `pip install valley2-edge[trt-rtx]`")
            from valley2_edge.runtime.trt.half_engine import build_half_engine

            return build_half_engine(trt, path, profile, samples(), target, watch)
    except EngineError as error:
        if watch.ended:
            raise Cancelled("The build of an engine was cancelled.") from error
        raise


def _finite(result: Array) -> Array:
    if not np.isfinite(result).all():
        raise EngineError("it computed a NaN or an infinity")
    return result


class _Watch:
    """Remembers that a build was ended, which TensorRT reports like any failure."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.ended = False

    def __call__(self, phase: str, done: int, total: int) -> bool:
        if self._progress is not None and self._progress(phase, done, total) is False:
            self.ended = True
        return not self.ended
