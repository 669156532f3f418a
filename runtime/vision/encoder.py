"""The vision half of a bundle, which the core computes in its own towers or drives in a backend, as a Python object."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.errors import InputError, Valley2Error, Valley2Warning
from valley2_edge.geometry import GeometryOptions
from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import (
    COMPONENT_NUMBERS,
    ISA_NUMBERS,
    EventBridge,
    array_pointer,
    enum_numbers,
    new_struct,
    number_of,
    path_bytes,
    stamp_struct,
    struct_array,
    struct_values,
    text_of,
    unsigned,
)
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.native_object import NativeObject
from valley2_edge.runtime.core.open_model import OpenModel
from valley2_edge.runtime.core.pixels import geometry_options_struct, picture_array
from valley2_edge.runtime.core.preprocess import PreparedPicture
from valley2_edge.runtime.core.tower import VocabularyUse
from valley2_edge.runtime.core.vision_engine import NATIVE, Array, ComponentName, output_shape
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.vision.backend_calls import VisionTable
from valley2_edge.runtime.vision.engine_choice import check_vision_engine

_COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")
_EVENT_KINDS = {number: name for name, number in enum_numbers("v2e_vision_event_kind", "V2E_VISION_").items()}
"""The stages by the numbers of the core's events, and "notice"."""


@dataclass
class VisionTimes:
    """Seconds spent in each part of the encoding."""

    load: float = 0.0
    preprocess: float = 0.0
    siglip: float = 0.0
    projector: float = 0.0
    eagle: float = 0.0


@dataclass
class EncodedPictures:
    """What became of a turn's pictures."""

    tokens: list[Array]
    """The embeddings of each picture, (siglip_tokens + eagle_tokens, hidden_size), which nobody may write to."""
    times: VisionTimes = field(default_factory=VisionTimes)
    vocabulary: VocabularyUse | None = None
    """What a native projector left out; None: there was none."""
    hits: int = 0
    """Pictures that were not computed for this turn."""


class VisionEncoder(NativeObject):
    """The three components of one bundle, loaded when they are needed and one turn at a time; safe for threads.

    Args:
        bundle: Where the towers are.
        threads: Number of CPU threads; the decoder's own number, so that both share one budget.
        model: The v2e_decoder, on whose threads native towers compute; None: they have threads of their own.
        providers: ONNX Runtime's execution providers in order of preference; None: those of this machine that run
            locally without building an engine first.
        keep: Hold the towers between turns, which costs their weights in memory; otherwise each goes after its use.
        trims: A v2e_decoder that is trimmed when towers come or go, unless they are kept: what it gives back makes room
            for the next ones. It must be open whenever pictures are encoded.
        engine: A name that `LoadOptions.vision_engine` takes. What another engine than the core cannot compute here,
            the core's towers do, after a warning that says why.
        isa: Instruction set of the native towers.
        cache_bytes: Most bytes of embeddings that are kept for pictures that come again; 0 keeps none. A picture is
            known by its pixels, once they are upright RGB, and by all that decides what becomes of them.

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
        trims: Any = None,
        engine: str = "auto",
        isa: str = "auto",
        cache_bytes: int = 0,
    ) -> None:
        options = LoadOptions(threads=threads, providers=providers, vision_engine=engine)
        check_vision_engine(bundle, options)
        self._model: OpenModel | None = None
        self._architecture = bundle.manifest.architecture
        self._backend = VisionTable.of(bundle, options)
        struct = new_struct(
            "v2e_vision_options",
            threads=unsigned("threads", threads),
            isa=number_of("isa", isa, ISA_NUMBERS),
            keep=int(keep),
            cache_bytes=unsigned("cache_bytes", cache_bytes, LARGEST_UINT64),
            threads_of=model,
            trims=trims,
            backend=None if self._backend is None else self._backend.table.struct,
            **_tower_files(bundle),
        )
        handle = ffi.new("v2e_vision **")
        check(library().v2e_vision_open(path_bytes(bundle.directory), struct, handle))
        self._handle = handle[0]

    @classmethod
    def of_model(cls, bundle: Bundle, model: OpenModel, backend: VisionTable | None) -> VisionEncoder:
        """The vision half of an open model; `backend` is what computes it there."""
        made = cls.__new__(cls)
        made._architecture = bundle.manifest.architecture
        made._backend = backend
        made._model = model
        made._handle = model.part("vision")
        return made

    def encode(
        self, pictures: Sequence[PreparedPicture], cancel: CancelToken, on_progress: ProgressCallback = ignore_progress
    ) -> EncodedPictures:
        """Encodes the pictures of one turn; each engine sees each picture once, and none that the cache knows.

        SigLIP and the projector go over all pictures, then Eagle does, so that only one tower is in memory. Turns of
        several sessions wait for each other.

        Args:
            pictures: As `prepare_pictures` made them.
            cancel: Stops at once: docs/performance.md has figures.
            on_progress: Told tiles, then pictures. It may run in a helper thread.

        Raises:
            Cancelled: The token was set.
            BundleError: A tower or a graph cannot be loaded.
            NumericError: An engine computed a NaN or an infinity.
            BudgetError: The memory does not suffice.
        """
        if not pictures:
            return EncodedPictures([])
        given = _picture_structs(pictures)
        use = new_struct("v2e_vision_use")
        made = ffi.new("v2e_embeddings *[]", len(pictures))

        def call(stop: Any, bridge: EventBridge) -> int:
            return int(
                library().v2e_vision_encode(
                    self.handle, given, len(pictures), stop, bridge.function, ffi.NULL, use, made
                )
            )

        self._interruptibly(call, cancel, on_progress)
        tokens = [_shared_array(handle) for handle in made]
        seconds = {part.name: getattr(use, f"{part.name}_seconds") for part in fields(VisionTimes)}
        vocabulary = None
        if use.has_vocabulary:
            vocabulary = VocabularyUse(**struct_values(use, [part.name for part in fields(VocabularyUse)]))
        return EncodedPictures(tokens, VisionTimes(**seconds), vocabulary, use.hits)

    def answering(self, ended: Callable[[], bool]) -> AbstractContextManager[None]:
        """For the length of a block an answer of the model is read.

        Args:
            ended: Whether nobody waits for it any more: a backend that opens a component then stops waiting, too.
        """
        return nullcontext() if self._backend is None else self._backend.calls.answers.reading(ended)

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
    def handle(self) -> Any:
        """The v2e_vision.

        Raises:
            Valley2Error: The encoder is closed.
        """
        if self._handle is None:
            raise Valley2Error("The vision encoder is closed.")
        return self._handle

    @property
    def providers(self) -> dict[str, list[str]]:
        """What computes each component that was loaded so far.

        It is the core's instruction set, ONNX Runtime's providers, or a backend by its name.
        """
        description = self._describe()
        found: dict[str, list[str]] = {}
        for name in _COMPONENTS:
            text = text_of(getattr(description, name))
            calls = None if self._backend is None or text.startswith(f"{NATIVE} ") else self._backend.calls
            if text:
                found[name] = [text] if calls is None else calls.computed_by.get(name, [text])
        return found

    @property
    def loaded(self) -> frozenset[str]:
        """The components that are in memory now."""
        description = self._describe()
        return frozenset(name for name in _COMPONENTS if getattr(description, f"{name}_loaded"))

    @property
    def engine(self) -> str:
        """The name of what computes: "native", or that of the backend, unless it cannot compute here."""
        backend = self._backend
        return NATIVE if backend is None or text_of(self._describe().engine) == NATIVE else backend.name

    @property
    def keeps(self) -> bool:
        """Whether the engines stay in memory between turns."""
        return bool(self._describe().keeps)

    @property
    def cache_bytes(self) -> int:
        """Bytes of embeddings that are kept now."""
        return int(self._describe().cache_bytes)

    @property
    def cache_budget_bytes(self) -> int:
        """Most bytes of embeddings that may be kept."""
        return int(self._describe().cache_budget_bytes)

    def stop_keeping(self) -> None:
        """Frees each engine after its use from now on."""
        check(library().v2e_vision_keep(self.handle, 0))

    def resize_cache(self, budget_bytes: int) -> None:
        """Sets another budget of embeddings and drops what is beyond it."""
        budget_bytes = unsigned("vision_cache_bytes", budget_bytes, LARGEST_UINT64)
        check(library().v2e_vision_resize_cache(self.handle, budget_bytes))

    def clear_cache(self) -> None:
        """Forgets all pictures."""
        check(library().v2e_vision_clear_cache(self.handle))

    def release(self) -> None:
        """Unloads the towers; the next call loads them again."""
        check(library().v2e_vision_release(self.handle))

    def close(self) -> None:
        """Gives back what the core holds; embeddings that were handed out stay."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            library().v2e_vision_close(handle)
            self._model = None

    def _describe(self) -> Any:
        description = new_struct("v2e_vision_description")
        check(library().v2e_vision_describe(self.handle, description))
        return description

    def _run(
        self, name: ComponentName, values: Array, positions: NDArray[np.int64] | None, cancel: CancelToken | None
    ) -> Array:
        dense = np.require(values, np.float32, ["C", "A"])
        places = None if positions is None else np.require(positions, np.int64, ["C", "A"])
        if dense.ndim < 2 or dense.size == 0 or (places is not None and places.shape != (len(dense), 2)):
            raise InputError(f"The {name} tower cannot take values of the shape {list(dense.shape)}.")
        output = np.empty(output_shape(name, self._architecture, len(dense)), np.float32)
        given = new_struct(
            "v2e_tower_input",
            values=array_pointer(dense),
            count=len(dense),
            positions=None if places is None else array_pointer(places),
        )

        def call(stop: Any, bridge: EventBridge) -> int:
            return int(
                library().v2e_vision_run(
                    self.handle,
                    COMPONENT_NUMBERS[name],
                    given,
                    dense[0].size,
                    array_pointer(output),
                    output.size,
                    stop,
                    bridge.function,
                    ffi.NULL,
                )
            )

        self._interruptibly(call, cancel or CancelToken(), ignore_progress)
        return output

    def _interruptibly(
        self, call: Callable[[Any, EventBridge], int], cancel: CancelToken, report: ProgressCallback
    ) -> None:
        """Makes a call of the core, so that the token and Ctrl-C end it, and tells its events."""
        bridge = EventBridge(lambda event: _tell(event, report), "v2e_vision_callback")
        with _stop() as stop:
            # For this call alone: what a backend waits for without the core hears it.
            token = CancelToken()

            def end() -> None:
                token.cancel()
                library().v2e_vision_stop_set(stop)

            def work() -> None:
                with nullcontext() if self._backend is None else self._backend.calls.ended_by(token):
                    bridge.finish(call(stop, bridge))

            with cancel.stopping(end):
                run_interruptibly(work, end)


@contextmanager
def _stop() -> Iterator[Any]:
    """A v2e_vision_stop for one call."""
    stop = ffi.new("v2e_vision_stop **")
    check(library().v2e_vision_stop_open(stop))
    try:
        yield stop[0]
    finally:
        library().v2e_vision_stop_close(stop[0])


def _tell(event: Any, report: ProgressCallback) -> None:
    kind = _EVENT_KINDS[event.kind]
    if kind == "notice":
        warnings.warn(text_of(event.text), Valley2Warning, stacklevel=2)
    else:
        report(kind, int(event.done), int(event.total))


def _tower_files(bundle: Bundle) -> dict[str, Any]:
    """The files of the native towers as v2e_vision_options has them: a bundle that is being made has no manifest."""
    found: dict[str, Any] = {}
    for name in _COMPONENTS:
        component = getattr(bundle.manifest, name)
        if component is not None:
            (file,) = component.files
            found[f"{name}_path"] = ffi.new("char[]", path_bytes(bundle.path(file)))
            found[f"{name}_stamp"] = stamp_struct(bundle.stamp(file))
    return found


def _picture_structs(pictures: Sequence[PreparedPicture]) -> Any:
    options: dict[GeometryOptions, Any] = {}
    structs = []
    for picture in pictures:
        if picture.options not in options:
            options[picture.options] = geometry_options_struct(picture.options)
        pixels = picture_array(picture.pixels, picture.geometry)
        height, width, _ = pixels.shape
        structs.append(
            new_struct(
                "v2e_vision_picture",
                pixels=array_pointer(pixels),
                width=width,
                height=height,
                options=options[picture.options],
            )
        )
    return struct_array("v2e_vision_picture", structs)


def _shared_array(handle: Any) -> Array:
    """The embeddings of one picture, (tokens, hidden_size), in the core's memory, which they keep alive."""
    values, tokens, hidden_size = ffi.new("float **"), ffi.new("size_t *"), ffi.new("size_t *")
    check(library().v2e_embeddings_read(handle, ffi.cast("const float **", values), tokens, hidden_size))
    owned = ffi.gc(values[0], lambda _: library().v2e_embeddings_release(handle))
    size = tokens[0] * hidden_size[0] * np.dtype(np.float32).itemsize
    array = np.frombuffer(ffi.buffer(owned, size), np.float32).reshape(tokens[0], hidden_size[0])
    array.flags.writeable = False
    return array
