"""The native library: where it lies, whether it belongs to this release, and its statuses as exceptions."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import valley2_edge.runtime
from valley2_edge.errors import (
    BudgetError,
    BundleError,
    Cancelled,
    EngineError,
    InputError,
    NumericError,
    Valley2Error,
)
from valley2_edge.runtime.core._header import ffi
from valley2_edge.version import __version__

LIBRARY_VARIABLE = "VALLEY2_LIBRARY"
"""Environment variable with the path of another build of the native library."""

_STATUS_ERRORS: dict[str, type[Valley2Error]] = {
    "V2E_ERROR_INPUT": InputError,
    "V2E_ERROR_BUNDLE": BundleError,
    "V2E_ERROR_BUDGET": BudgetError,
    "V2E_ERROR_CANCELLED": Cancelled,
    "V2E_ERROR_NUMERIC": NumericError,
    "V2E_ERROR_ENGINE": EngineError,
    "V2E_ERROR_INTERNAL": Valley2Error,
    "V2E_ERROR_UNREAD": InputError,
}


_failures: deque[tuple[str, BaseException]] = deque(maxlen=16)
"""What callbacks have failed with, the newest last: the sentence that the core was told, and the exception. The core
may call on a thread of its own, and give the failure to another one."""
_failures_lock = threading.Lock()


def library_path() -> Path:
    """Where the native library is looked for: $VALLEY2_LIBRARY, or else in the folders of this package."""
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        return Path(given)
    name = {"win32": "valley2.dll", "darwin": "libvalley2.dylib"}.get(sys.platform, "libvalley2.so")
    # An editable install has two folders: the checkout's with the Python files and the installed one with the library.
    candidates = [Path(folder) / name for folder in valley2_edge.runtime.__path__]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


@functools.cache
def library() -> Any:
    """Opens the native library once; its attributes are the functions and the enum values of the header.

    Raises:
        Valley2Error: The library is not there, cannot be loaded, or belongs to another release.
    """
    path = library_path()
    if not path.is_file():
        raise Valley2Error(
            f"The native library {path} is missing; reinstall valley2-edge, or set {LIBRARY_VARIABLE} to a build of it."
        )
    try:
        loaded = ffi.dlopen(str(path))
    except OSError as error:
        raise Valley2Error(f"The native library {path} cannot be loaded: {error}.") from error
    for name in dir(loaded):
        try:
            getattr(loaded, name)
        except (AttributeError, ffi.error) as error:
            raise Valley2Error(f"The native library {path} lacks {name}; it belongs to another release.") from error
    found = ffi.string(loaded.v2e_version()).decode()
    if found != __version__:
        raise Valley2Error(f"The native library {path} is of release {found}, but this package of {__version__}.")
    return loaded


def fail_in_callback(error: BaseException) -> int:
    """Makes a callback of the core fail with an exception, which `check` raises again behind the core's call.

    Args:
        error: What the callback met.

    Returns:
        The v2e_status that the callback returns.
    """
    names = [name for name, kind in _STATUS_ERRORS.items() if isinstance(error, kind)]
    name = "V2E_ERROR_CANCELLED" if not isinstance(error, Exception) else (names or ["V2E_ERROR_INTERNAL"])[0]
    sentence = str(error) or type(error).__name__
    status = library().v2e_backend_fail(getattr(library(), name), sentence.encode(errors="replace"))
    with _failures_lock:
        _failures.append((_last_error(), error))
    return int(status)


def check(status: int) -> None:
    """Raises the exception of a v2e_status other than V2E_OK, with the library's own sentence.

    Raises:
        Valley2Error: or the child of it that the status stands for.
        BaseException: What a callback has failed with, if that is why the call fails.
    """
    if status == 0:
        return
    text = _last_error()
    with _failures_lock:
        kept = next((failure for failure in reversed(_failures) if failure[0] == text), None)
        if kept is not None:
            _failures.remove(kept)
    if kept is not None:
        raise kept[1]
    name = ffi.typeof("v2e_status").elements.get(status)
    raise _STATUS_ERRORS.get(name, Valley2Error)(text)


def _last_error() -> str:
    text: bytes = ffi.string(library().v2e_last_error())
    return text.decode("utf-8", errors="replace")


def version() -> str:
    """The native library's version, "major.minor.patch"."""
    text: bytes = ffi.string(library().v2e_version())
    return text.decode()
