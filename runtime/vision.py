"""The vision engines: SigLIP, its projector and Eagle in ONNX Runtime."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BudgetError, BundleError, InputError, NumericError, Valley2Error, Valley2Warning
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.pixels import stitch_tiles
from valley2_edge.runtime.preprocess import PreparedPicture
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[np.float32]

# Azure sends pictures away; TensorRT spends minutes on building an engine. Both only when the caller names them.
_NOT_BY_DEFAULT = {"AzureExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}
# Its default rounds float32 factors to 10 bits of mantissa.
_PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
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
    """For each picture (siglip_tokens + eagle_tokens, hidden_size)."""
    times: VisionTimes = field(default_factory=VisionTimes)


class VisionEncoder:
    """The three engines of one bundle, loaded when they are needed and one turn at a time.

    Args:
        bundle: Where the graphs are.
        threads: Of the processor, the decoder's own number, so that both share one budget.
        providers: ONNX Runtime's execution providers in order of preference; None: those of this machine that run
            locally without building an engine first.
        keep: Hold the engines between turns, which costs their weights in memory; otherwise each goes after its use.
        trim: Called when engines come or went, unless they are kept: what it gives back makes room for the next ones.

    Raises:
        InputError: A provider is unknown to this ONNX Runtime.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        providers: Sequence[str] | None = None,
        keep: bool = False,
        trim: Callable[[], None] = lambda: None,
    ) -> None:
        self._bundle = bundle
        self._threads = threads
        self._wanted = _choose_providers(providers)
        """Names, in order of preference."""
        self._keep = keep
        self._trim = trim
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()
        self.providers: dict[str, list[str]] = {}
        """What ONNX Runtime really gave each engine that was loaded so far."""

    def encode(
        self, pictures: Sequence[PreparedPicture], cancel: CancelToken, on_progress: ProgressCallback = ignore_progress
    ) -> EncodedPictures:
        """Encodes the pictures of one turn; each engine sees each picture once.

        SigLIP and the projector go over all pictures, then Eagle does, so that only one tower is in memory. Turns of
        several sessions wait for each other.

        Args:
            pictures: As `prepare_pictures` made them.
            cancel: Stops within one tile, or inside Eagle within one of its operations.
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
                siglip = self._encode_siglip(pictures, encoded.times, cancel, on_progress)
                eagle = self._encode_eagle(pictures, encoded.times, cancel, on_progress)
            finally:
                self._release_unless_kept()
            for index in range(len(pictures)):
                parts = [tokens[index] for tokens in (siglip, eagle) if tokens]
                encoded.tokens.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
            return encoded

    def siglip(self, tiles: Array, cancel: CancelToken | None = None) -> Array:
        """Features (T, 729, channels) of tiles (T, 3, size, size)."""
        return self._run("siglip", "features", {"tiles": tiles}, cancel)

    def project(self, features: Array, cancel: CancelToken | None = None) -> Array:
        """Tokens (T, side * side, hidden_size) of SigLIP features (T, 729, channels)."""
        return self._run("projector", "tokens", {"features": features}, cancel)

    def eagle(self, patches: Array, positions: NDArray[np.int64], cancel: CancelToken | None = None) -> Array:
        """Tokens (P / 4, hidden_size) of one picture's patches (P, 588) at positions (P, 2)."""
        return self._run("eagle", "tokens", {"patches": patches, "positions": positions}, cancel)

    @property
    def loaded(self) -> frozenset[str]:
        """The engines that are in memory now."""
        return frozenset(self._sessions)

    @property
    def keeps(self) -> bool:
        """Whether the engines stay in memory between turns."""
        return self._keep

    def stop_keeping(self) -> None:
        """From now on each engine goes after its use."""
        self._keep = False

    def release(self) -> None:
        """Unloads the engines; the next call loads them again."""
        self._sessions.clear()

    def _encode_siglip(
        self,
        pictures: Sequence[PreparedPicture],
        times: VisionTimes,
        cancel: CancelToken,
        report: ProgressCallback,
    ) -> list[Array]:
        done, total = 0, sum(picture.geometry.tile_count for picture in pictures)
        report("siglip", done, total)
        self._load("siglip", times)
        self._load("projector", times)
        self._trim_unless_kept()
        encoded = []
        for picture in pictures:
            cancel.check()
            with times.measured("preprocess"):
                tiles = picture.tiles()  # (tile_count, 3, size, size)
            projected = []
            for tile in tiles:
                with times.measured("siglip"):
                    features = self.siglip(tile[None], cancel)  # (1, 729, channels)
                with times.measured("projector"):
                    projected.append(self.project(features, cancel))  # (1, side * side, hidden)
                done += 1
                report("siglip", done, total)
            encoded.append(stitch_tiles(np.concatenate(projected), picture.geometry, picture.options))
        self._release_unless_kept()
        return encoded

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
        self._load("eagle", times)
        self._trim_unless_kept()
        encoded = []
        for index, picture in enumerate(pictures):
            cancel.check()
            with times.measured("preprocess"):
                patches, positions = picture.patches()
            with times.measured("eagle"):
                encoded.append(self.eagle(patches, positions, cancel))
            report("eagle", index + 1, len(pictures))
        return encoded

    def _load(self, name: str, times: VisionTimes) -> None:
        with times.measured("load"):
            self._session(name)

    def _session(self, name: str) -> onnxruntime.InferenceSession:
        if name not in self._sessions:
            session = run_interruptibly(lambda: self._open(name), lambda: None)
            self.providers[name] = session.get_providers()
            if self.providers[name][0] != self._wanted[0]:
                message = f"The {name} engine runs on {self.providers[name][0]}: {self._wanted[0]} could not be used."
                warnings.warn(message, Valley2Warning, stacklevel=2)
            self._sessions[name] = session
        return self._sessions[name]

    def _open(self, name: str) -> onnxruntime.InferenceSession:
        import onnxruntime

        component = getattr(self._bundle.manifest, name)
        if component is None:
            raise BundleError(f"{self._bundle.directory} has no {name} engine.")
        path = self._bundle.path(component.files[0])
        try:
            providers = [(provider, _PROVIDER_OPTIONS.get(provider, {})) for provider in self._wanted]
            session = onnxruntime.InferenceSession(str(path), self._options(), providers=providers)
        # onnxruntime's exceptions have no common base of their own.
        except Exception as error:
            raise BundleError(f"{path} cannot be loaded: {_first_line(error)}") from error
        # Its own fallback would run a failing graph a second time elsewhere and print that.
        session.disable_fallback()
        return session

    def _options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Packed copies of the weights would double their memory to save about a twentieth of a tile's time; without
        # them the weights are pages of the bundle's own files.
        options.add_session_config_entry("session.disable_prepacking", "1")
        # The C library's allocator breaks up under tensors that come and go: it held six times what was in use. The
        # arena does not, and shrinks after each run; weights, which stay, are kept out of it.
        options.enable_cpu_mem_arena = True
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        # A plan of all tensors is one more block, beside what the arena holds already.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        return options

    def _run(self, name: str, output: str, inputs: dict[str, Any], cancel: CancelToken | None) -> Array:
        import onnxruntime

        session = self._session(name)
        run_options = onnxruntime.RunOptions()
        run_options.log_severity_level = 4  # a terminated run is no error to write about
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

        def terminate() -> None:
            run_options.terminate = True

        token = cancel or CancelToken()
        with token.stopping(terminate):
            try:
                result: Array = run_interruptibly(lambda: session.run([output], inputs, run_options)[0], terminate)
            # onnxruntime's exceptions have no common base of their own.
            except Exception as error:
                token.check()
                raise _translated(name, error) from error
        if not np.isfinite(result).all():
            raise NumericError(f"The {name} engine computed a NaN or an infinity.")
        return result

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


def _choose_providers(wanted: Sequence[str] | None) -> list[str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if wanted is None:
        return [provider for provider in available if provider not in _NOT_BY_DEFAULT]
    unknown = [provider for provider in wanted if provider not in available]
    if unknown or not wanted:
        raise InputError(f"providers must be among {', '.join(available)}, not {', '.join(unknown) or 'empty'}.")
    return list(wanted)


def _translated(name: str, error: Exception) -> Valley2Error:
    text = _first_line(error)
    if "allocate" in text.lower() or isinstance(error, MemoryError):
        return BudgetError(f"The memory does not suffice for the {name} engine: {text}")
    return Valley2Error(f"The {name} engine failed: {text}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
