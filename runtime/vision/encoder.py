"""The vision half of a bundle: SigLIP, its projector and Eagle, in the core's own towers or in a backend."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BundleError, EngineError, Valley2Warning
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly, run_until_cancelled
from valley2_edge.runtime.core.backend import BackendTable
from valley2_edge.runtime.core.pixels import stitch_tiles
from valley2_edge.runtime.core.preprocess import PreparedPicture
from valley2_edge.runtime.core.tower import Tower, VocabularyUse
from valley2_edge.runtime.core.vision_engine import NATIVE, Array, ComponentName
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.vision.engine_choice import check_vision_engine, vision_backend

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
    """The three components of one bundle, loaded when they are needed and one turn at a time.

    Args:
        bundle: Where the towers are.
        threads: Number of CPU threads; the decoder's own number, so that both share one budget.
        model: The decoder's v2e_model, on whose threads native towers compute; None: they have threads of their own.
        providers: ONNX Runtime's execution providers in order of preference; None: those of this machine that run
            locally without building an engine first.
        keep: Hold the towers between turns, which costs their weights in memory; otherwise each goes after its use.
        trim: Called when towers come or went, unless they are kept: what it gives back makes room for the next ones.
        engine: A name that `LoadOptions.vision_engine` takes. What another engine than the core cannot compute here,
            the core's towers do, after a warning that says why.
        isa: Instruction set of the native towers.

    Raises:
        InputError: The installation or the bundle lacks the engine; the text says how to get it.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        model: Any = None,
        providers: Sequence[str] | None = None,
        keep: bool = False,
        trim: Callable[[], None] = lambda: None,
        engine: str = "auto",
        isa: str = "auto",
    ) -> None:
        self._bundle = bundle
        self._threads = threads
        self._model = model
        options = LoadOptions(threads=threads, providers=providers, vision_engine=engine)
        check_vision_engine(bundle, options)
        self._backend = vision_backend(bundle, options)
        self._table = None if self._backend is None else BackendTable(self._backend)
        self._failed: set[ComponentName] = set()
        """The components that the backend could not compute."""
        self._isa = isa
        self._keep = keep
        self._trim = trim
        self._towers: dict[ComponentName, Tower] = {}
        self._lock = Lock()
        self.providers: dict[str, list[str]] = {}
        """What computes each component that was loaded so far: the core's instruction set, ONNX Runtime's providers,
        or a backend by its name."""

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
            BundleError: A tower or a graph cannot be loaded.
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
        return self._run("siglip", tiles, None, cancel)

    def project(self, features: Array, cancel: CancelToken | None = None) -> Array:
        """Tokens (T, side * side, hidden_size) of SigLIP features (T, 729, channels)."""
        return self._run("projector", features, None, cancel)

    def eagle(self, patches: Array, positions: NDArray[np.int64], cancel: CancelToken | None = None) -> Array:
        """Tokens (P / 4, hidden_size) of one picture's patches (P, 588) at positions (P, 2)."""
        return self._run("eagle", patches, positions, cancel)

    @property
    def loaded(self) -> frozenset[str]:
        """The components that are in memory now."""
        return frozenset(self._towers)

    @property
    def engine(self) -> str:
        """The name of what computes: "native", or that of the backend, unless it cannot compute here."""
        return NATIVE if self._backend is None else self._backend.name

    @property
    def keeps(self) -> bool:
        """Whether the engines stay in memory between turns."""
        return self._keep

    def stop_keeping(self) -> None:
        """Frees each engine after its use from now on."""
        self._keep = False

    def release(self) -> None:
        """Unloads the towers; the next call loads them again."""
        for tower in self._towers.values():
            tower.close()
        self._towers.clear()
        if self._backend is not None:
            self._backend.stop()

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
        if "projector" in self._failed or self._backend is None:
            use = self._towers["projector"].vocabulary
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
            self._tower(name, rows, cancel, report)

    def _run(
        self, name: ComponentName, values: Array, positions: NDArray[np.int64] | None, cancel: CancelToken | None
    ) -> Array:
        tower = self._tower(name, len(values), cancel)
        try:
            return tower.compute(values, positions, cancel)
        except EngineError as error:
            self._fall_back(name, error)
            return self._tower(name, len(values), cancel).compute(values, positions, cancel)

    def _tower(
        self,
        name: ComponentName,
        rows: int,
        cancel: CancelToken | None = None,
        report: ProgressCallback = ignore_progress,
    ) -> Tower:
        """The component, loaded for inputs of so many rows; an engine may have to be built for that."""
        token = cancel or CancelToken()
        if name not in self._towers:
            try:
                self._start()
                # A graph takes seconds to load and cannot be told to stop.
                self._towers[name] = run_until_cancelled(lambda: self._open(name), token, lambda: None)
            except EngineError as error:
                self._fall_back(name, error)
                return self._tower(name, rows, cancel, report)
        if self._in_backend(name):
            try:
                self._prepare(name, rows, token, report)
            except EngineError as error:
                self._fall_back(name, error)
                return self._tower(name, rows, cancel, report)
        return self._towers[name]

    def _in_backend(self, name: ComponentName) -> bool:
        return self._backend is not None and name not in self._failed

    def _start(self) -> None:
        """Finds what the backend needs; where that is missing, the core computes everything."""
        if self._backend is None:
            return
        try:
            run_interruptibly(self._backend.start, lambda: None)
        except EngineError as error:
            _warn(f"The vision engines run in the core instead of {self._backend.name}: {error}.")
            self._backend = self._table = None

    def _open(self, name: ComponentName) -> Tower:
        component = getattr(self._bundle.manifest, name)
        if component is None:
            raise BundleError(f"{self._bundle.directory} has no {name} tower.")
        architecture = self._bundle.manifest.architecture
        if self._in_backend(name):
            return Tower(self._bundle.directory, name, architecture, backend=self._table)
        (file,) = component.files
        tower = Tower(
            self._bundle.path(file),
            name,
            architecture,
            threads=self._threads,
            threads_of=self._model,
            isa=self._isa,
            stamp=self._bundle.stamp(file),
        )
        self.providers[name] = [f"{NATIVE} {tower.description.isa}"]
        return tower

    def _prepare(self, name: ComponentName, rows: int, cancel: CancelToken, report: ProgressCallback) -> None:
        backend, stop = self._backend, CancelToken()
        if backend is None:
            return

        def stopped() -> bool:
            return stop.cancelled or cancel.cancelled

        run_interruptibly(lambda: backend.prepare(name, rows, report, stopped), stop.cancel)
        self.providers[name] = backend.computed_by(name)

    def _fall_back(self, name: ComponentName, error: EngineError) -> None:
        """Lets the core compute this component from now on."""
        if not self._in_backend(name):
            raise error
        self._failed.add(name)
        if name in self._towers:
            self._towers.pop(name).close()
        _warn(f"The {name} engine runs in the core instead of {self.engine}: {error}.")

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
