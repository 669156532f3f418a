"""Backends that programs have registered, by the names that `vision_engine` takes (docs/backends.md)."""

from __future__ import annotations

from collections.abc import Callable

# Not from typing: until the command line listens for Ctrl-C, as little as possible is imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from valley2_edge.bundle import Bundle
    from valley2_edge.options import LoadOptions
    from valley2_edge.runtime.core.backend import Backend

    BackendFactory = Callable[[Bundle, LoadOptions], Backend]

BUILT_IN = ("auto", "native", "onnx", "tensorrt")
"""Names of the engines that are there without being registered."""

_factories: dict[str, BackendFactory] = {}


def register_backend(name: str, factory: BackendFactory) -> None:
    """Makes a backend of vision components known under a name, in this process.

    Args:
        name: What `vision_engine` is to be for it; a name that is registered already gets the new factory.
        factory: Called with the opened bundle and the options of loading; makes the backend without opening anything.
            It is called for a plan of the memory as well.

    Raises:
        InputError: The name is empty, or that of a built-in engine.
    """
    if not name or name in BUILT_IN:
        from valley2_edge.errors import InputError

        raise InputError(f"A backend cannot be registered under the name {name!r}.")
    _factories[name] = factory


def registered_backends() -> tuple[str, ...]:
    """The names that are registered."""
    return tuple(_factories)


def backend_factory(name: str) -> BackendFactory:
    """The factory that is registered under a name.

    Raises:
        KeyError: None is.
    """
    return _factories[name]
