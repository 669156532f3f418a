"""The vision engines: SigLIP, its projector and Eagle, native, in ONNX Runtime or in TensorRT."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BundleError, EngineError, InputError, Valley2Warning
from valley2_edge.options import VisionEngineName
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly, run_until_cancelled
from valley2_edge.runtime.core.pixels import stitch_tiles
from valley2_edge.runtime.core.preprocess import PreparedPicture
from valley2_edge.runtime.core.tower import VocabularyUse
from valley2_edge.runtime.core.vision_engine import (
    Array,
    ComponentName,
    EngineInputs,
    VisionEngine,
    check_engine,
    is_native,
)
from valley2_edge.runtime.devices.check import check_provider
from valley2_edge.runtime.devices.driver_cache import keep_driver_caches
from valley2_edge.runtime.onnx.engine import OnnxEngine
from valley2_edge.runtime.onnx.providers import CPU_PROVIDER, choose_providers
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.vision.native_engine import NativeEngine

if TYPE_CHECKING:
    from valley2_edge.runtime.trt.platform import Platform
    from valley2_edge.runtime.trt.tower import TensorRtTower

_LOCK_WAIT_SECONDS = 0.05


@dataclass
class VisionTimes:
    """Seconds spent in each part of the encoding."""

    load: float = 0.0
    preprocess: float = 0.0
    siglip: float = 0.0
    projector: float = 0.0
    eagle: float = 0.0

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Adds the time that a block takes to one part."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - begin)


@dataclass
class EncodedPictures:
    """What the vision engines made of a turn's pictures."""

    tokens: list[Array]
    """The embeddings of each picture, (siglip_tokens + eagle_tokens, hidden_size)."""
    times: VisionTimes = field(default_factory=VisionTimes)
    vocabulary: VocabularyUse | None = None
    """What a native projector left out; None: there was none."""


class VisionEncoder:
    """The three engines of one bundle, loaded when they are needed and one turn at a time.

    Args:
        bundle: Where the graphs are.
        threads: Number of CPU threads; the decoder's own number, so that both share one budget.
        providers: ONNX Runtime's execution providers in order of preference; None: those of this machine that run
            locally without building an engine first.
        keep: Hold the engines between turns, which costs their weights in memory; otherwise each goes after its use.
        trim: Called when engines come or went, unless they are kept: what it gives back makes room for the next ones.
        engine: "native" or "onnx" where the bundle must have that; "auto": whichever it has. "tensorrt": its graphs in
            TensorRT on a GPU; what cannot run there runs in ONNX Runtime, after a warning that says why.
        isa: Instruction set of the native towers.

    Raises:
        InputError: A provider is unknown to this ONNX Runtime, or the bundle has not the engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        providers: Sequence[str] | None = None,
        keep: bool = False,
        trim: Callable[[], None] = lambda: None,
        engine: VisionEngineName = "auto",
        isa: str = "auto",
    ) -> None:
        self._bundle = bundle
        self._threads = threads
        manifest = bundle.manifest
        components = [manifest.siglip, manifest.projector, manifest.eagle]
        check_engine(engine, components)
        self._isa = isa
        has_graphs = any(component is not None and not is_native(component) for component in components)
        self._wanted = choose_providers(providers) if has_graphs or providers is not None else []
        """Names, in order of preference."""
        self._named = providers is not None
        self._keep = keep
        self._trim = trim
        self._engines: dict[str, VisionEngine] = {}
        self._tensorrt = engine == "tensorrt"
        self._platform: Platform | None = None
        self._towers: dict[ComponentName, TensorRtTower] = {}
        """The engines that are TensorRT's."""
        self._failed: set[ComponentName] = set()
        """The components that TensorRT could not compute."""
        self._lock = Lock()
        self.providers: dict[str, list[str]] = {}
        """What computes each engine that was loaded so far: ONNX Runtime's providers, the core's instruction set, or
        TensorRT."""

    def encode(
        self, pictures: Sequence[PreparedPicture], cancel: CancelToken, on_progress: ProgressCallback = ignore_progress
    ) -> EncodedPictures:
        """Encodes the pictures of one turn; each engine sees each picture once.

        SigLIP and the projector go over all pictures, then Eagle does, so that only one tower is in memory. Turns of
        several sessions wait for each other.

        Args:
            pictures: As `prepare_pictures` made them.
            cancel: Stops at once: docs/performance.md has figures.
            on_progress: Told tiles, then pictures.

        Raises:
            Cancelled: The token was set.
            BundleError: A graph cannot be loaded.
            NumericError: An engine computed a NaN or an infinity.
            BudgetError: The memory does not suffice.
        """
        encoded = EncodedPictures([])
        if not pictures:
            return encoded
        with self._turn(cancel):
            try:
                self._trim_unless_kept()
                siglip = self._encode_siglip(pictures, encoded, cancel, on_progress)
                eagle = self._encode_eagle(pictures, encoded.times, cancel, on_progress)
            finally:
                self._release_unless_kept()
            for index in range(len(pictures)):
                parts = [tokens[index] for tokens in (siglip, eagle) if tokens]
                encoded.tokens.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
            return encoded

    def siglip(self, tiles: Array, cancel: CancelToken | None = None) -> Array:
        """Features (T, 729, channels) of tiles (T, 3, size, size)."""
        return self._run("siglip", {"tiles": tiles}, cancel)

    def project(self, features: Array, cancel: CancelToken | None = None) -> Array:
        """Tokens (T, side * side, hidden_size) of SigLIP features (T, 729, channels)."""
        return self._run("projector", {"features": features}, cancel)

    def eagle(self, patches: Array, positions: NDArray[np.int64], cancel: CancelToken | None = None) -> Array:
        """Tokens (P / 4, hidden_size) of one picture's patches (P, 588) at positions (P, 2)."""
        return self._run("eagle", {"patches": patches, "positions": positions}, cancel)

    @property
    def loaded(self) -> frozenset[str]:
        """The engines that are in memory now."""
        return frozenset(self._engines)

    @property
    def in_tensorrt(self) -> bool:
        """Whether TensorRT is to compute the engines; False once there is no GPU for it."""
        return self._tensorrt

    @property
    def keeps(self) -> bool:
        """Whether the engines stay in memory between turns."""
        return self._keep

    def stop_keeping(self) -> None:
        """Frees each engine after its use from now on."""
        self._keep = False

    def release(self) -> None:
        """Unloads the engines; the next call loads them again."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._towers.clear()
        if self._platform is not None:
            self._platform.close()
            self._platform = None

    def _encode_siglip(
        self,
        pictures: Sequence[PreparedPicture],
        result: EncodedPictures,
        cancel: CancelToken,
        report: ProgressCallback,
    ) -> list[Array]:
        times = result.times
        done, total = 0, sum(picture.geometry.tile_count for picture in pictures)
        report("siglip", done, total)
        self._load("siglip", times, 1, cancel, report)
        self._load("projector", times, 1, cancel, report)
        self._trim_unless_kept()
        encoded = []
        for picture in pictures:
            cancel.check()
            with times.measured("preprocess"):
                tiles = picture.tiles(cancel)  # (tile_count, 3, size, size)
            projected = []
            for tile in tiles:
                with times.measured("siglip"):
                    features = self.siglip(tile[None], cancel)  # (1, 729, channels)
                with times.measured("projector"):
                    projected.append(self.project(features, cancel))  # (1, side * side, hidden)
                self._note_vocabulary(result)
                done += 1
                report("siglip", done, total)
            encoded.append(stitch_tiles(np.concatenate(projected), picture.geometry, picture.options))
        self._release_unless_kept()
        return encoded

    def _note_vocabulary(self, result: EncodedPictures) -> None:
        engine = self._engines["projector"]
        if isinstance(engine, NativeEngine):
            use = engine.vocabulary
            result.vocabulary = use if result.vocabulary is None else result.vocabulary.joined(use)

    def _encode_eagle(
        self,
        pictures: Sequence[PreparedPicture],
        times: VisionTimes,
        cancel: CancelToken,
        report: ProgressCallback,
    ) -> list[Array]:
        if not any(picture.options.eagle for picture in pictures):
            return []
        report("eagle", 0, len(pictures))
        most_patches = max(picture.geometry.eagle_patches for picture in pictures)
        self._load("eagle", times, most_patches, cancel, report)
        self._trim_unless_kept()
        encoded = []
        for index, picture in enumerate(pictures):
            cancel.check()
            with times.measured("preprocess"):
                patches, positions = picture.patches(cancel)
            with times.measured("eagle"):
                encoded.append(self.eagle(patches, positions, cancel))
            report("eagle", index + 1, len(pictures))
        return encoded

    def _load(
        self, name: ComponentName, times: VisionTimes, rows: int, cancel: CancelToken, report: ProgressCallback
    ) -> None:
        with times.measured("load"):
            self._engine(name, rows, cancel, report)

    def _run(self, name: ComponentName, inputs: EngineInputs, cancel: CancelToken | None) -> Array:
        engine = self._engine(name, len(next(iter(inputs.values()))), cancel)
        try:
            return engine.run(inputs, cancel)
        except EngineError as error:
            self._fall_back(name, error)
            return self._engine(name).run(inputs, cancel)

    def _engine(
        self,
        name: ComponentName,
        rows: int = 1,
        cancel: CancelToken | None = None,
        report: ProgressCallback = ignore_progress,
    ) -> VisionEngine:
        """The engine, loaded for inputs of so many rows; a TensorRT engine may have to be built for that."""
        if name not in self._engines:
            # A graph takes seconds to load and cannot be told to stop. TensorRT's platform must not be opened twice.
            if self._tensorrt:
                self._engines[name] = run_interruptibly(lambda: self._open(name), lambda: None)
            else:
                self._engines[name] = run_until_cancelled(
                    lambda: self._open(name), cancel or CancelToken(), lambda: None
                )
        if name in self._towers:
            tower, stop = self._towers[name], CancelToken()

            def stopped() -> bool:
                return stop.cancelled or (cancel is not None and cancel.cancelled)

            try:
                run_interruptibly(lambda: tower.prepare(rows, report, stopped), stop.cancel)
            except EngineError as error:
                self._fall_back(name, error)
                return self._engine(name)
        self.providers[name] = self._engines[name].providers
        return self._engines[name]

    def _open(self, name: ComponentName) -> VisionEngine:
        component = getattr(self._bundle.manifest, name)
        if component is None:
            raise BundleError(f"{self._bundle.directory} has no {name} engine.")
        path = self._bundle.path(component.files[0])
        if is_native(component):
            architecture = self._bundle.manifest.architecture
            stamp = self._bundle.stamp(component.files[0])
            return NativeEngine(path, name, architecture, threads=self._threads, isa=self._isa, stamp=stamp)
        tower = self._open_tower(name) if self._tensorrt and name not in self._failed else None
        if tower is not None:
            return tower
        return self._open_graph(name, component.files)

    def _open_graph(self, name: ComponentName, files: Sequence[str]) -> OnnxEngine:
        """A graph in ONNX Runtime; a provider that nobody named is left for the CPU where it computes wrong."""
        path = self._bundle.path(files[0])
        if self._wanted != [CPU_PROVIDER]:
            keep_driver_caches()
        with self._bundle.unchanged(*files):
            engine = OnnxEngine(path, name, threads=self._threads, providers=self._wanted)
        try:
            check_provider(self._bundle, name, engine, self._threads)
        except EngineError as error:
            engine.close()
            if self._named:
                raise InputError(f"The {name} engine is not left to a device that computes wrong: {error}.") from error
            _warn(f"The {name} engine runs on the CPU: {error}.")
            with self._bundle.unchanged(*files):
                return OnnxEngine(path, name, threads=self._threads, providers=[CPU_PROVIDER])
        return engine

    def _open_tower(self, name: ComponentName) -> TensorRtTower | None:
        """None, after a warning, where there is no GPU or no TensorRT."""
        from valley2_edge.runtime.trt.platform import open_platform
        from valley2_edge.runtime.trt.tower import TensorRtTower

        if self._platform is None:
            try:
                self._platform = open_platform()
            except EngineError as error:
                self._tensorrt = False
                _warn(f"The vision engines run in ONNX Runtime instead of TensorRT: {error}.")
                return None
        self._towers[name] = TensorRtTower(self._platform, self._bundle, name)
        return self._towers[name]

    def _fall_back(self, name: ComponentName, error: EngineError) -> None:
        """Lets ONNX Runtime compute this component from now on."""
        self._failed.add(name)
        self._towers.pop(name)
        self._engines.pop(name).close()
        _warn(f"The {name} engine runs in ONNX Runtime instead of TensorRT: {error}.")

    @contextmanager
    def _turn(self, cancel: CancelToken) -> Iterator[None]:
        while not self._lock.acquire(timeout=_LOCK_WAIT_SECONDS):
            cancel.check()
        try:
            yield
        finally:
            self._lock.release()

    def _release_unless_kept(self) -> None:
        if not self._keep:
            self.release()
        self._trim_unless_kept()

    def _trim_unless_kept(self) -> None:
        if not self._keep:
            self._trim()


def _warn(text: str) -> None:
    warnings.warn(text, Valley2Warning, stacklevel=2)
