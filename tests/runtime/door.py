"""The door of the header, called as a C program would, for tests that compare it with Python's own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import new_struct
from valley2_edge.runtime.core.library import check, library

FOREVER = 2**32 - 1


@dataclass
class Said:
    """What an answer gave."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    reason: int = 0


@contextmanager
def opened(kind: str, *arguments: Any) -> Iterator[Any]:
    """A handle of v2e_KIND_open, closed at the end."""
    handle = ffi.new(f"v2e_{kind} **")
    check(getattr(library(), f"v2e_{kind}_open")(*arguments, handle))
    try:
        yield handle[0]
    finally:
        getattr(library(), f"v2e_{kind}_close")(handle[0])


@contextmanager
def opened_model(bundle: Path, **options: Any) -> Iterator[Any]:
    """A v2e_model on the processor, which remembers no checks."""
    nothing = ffi.new("char[]", b"")
    chosen = {"device": library().V2E_DEVICE_CPU, "verified_files": nothing, **options}
    with opened("model", str(bundle).encode(), new_struct("v2e_model_options", **chosen)) as model:
        yield model


def picture_handle(pixels: NDArray[np.uint8]) -> Any:
    """A v2e_picture of (height, width, 3) pixels."""
    height, width, _ = pixels.shape
    handle = ffi.new("v2e_picture **")
    data = ffi.from_buffer("uint8_t[]", np.ascontiguousarray(pixels))
    check(library().v2e_picture_from_pixels(data, width, height, 0, 0, ffi.NULL, handle))
    return ffi.gc(handle[0], library().v2e_picture_close)


def ask(session: Any, text: str, images: Sequence[NDArray[np.uint8]] = (), **options: Any) -> Said:
    """Asks a v2e_session and reads the whole answer."""
    pictures = [picture_handle(pixels) for pixels in images]
    words = ffi.new("char[]", text.encode())
    question = new_struct(
        "v2e_question",
        text=words,
        pictures=ffi.new("v2e_picture *[]", pictures),
        picture_count=len(pictures),
        token_events=1,
        **options,
    )
    handle = ffi.new("v2e_answer **")
    check(library().v2e_session_ask(session, question, handle))
    said, event = Said(), new_struct("v2e_event")
    try:
        while event.kind != library().V2E_EVENT_END:
            check(library().v2e_answer_next(handle[0], FOREVER, event))
            if event.kind == library().V2E_EVENT_TEXT:
                said.text += bytes(ffi.buffer(event.text, event.size)).decode()
            elif event.kind == library().V2E_EVENT_TOKEN:
                said.tokens.append(event.token)
        said.reason = event.reason
    finally:
        library().v2e_answer_close(handle[0])
    return said
