"""Which engines were found to compute right on which device; everything else is compared with the CPU first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

from valley2_edge.errors import EngineError, NumericError
from valley2_edge.user_data import data_directory, read_own_json, write_own_json
from valley2_edge.version import __version__

FILE_NAME = "checked_devices.json"
_VERSION = 1
_MOST_ENTRIES = 256
"""Older ones are forgotten, and compared again."""


@dataclass(frozen=True)
class DeviceEngine:
    """An engine on a device, with all that may change what it computes."""

    engine: str
    """siglip, projector, eagle or decoder."""
    content: str
    """Digests of the engine's files."""
    computed_by: str
    """An execution provider, TensorRT, or the native core."""
    version: str
    """Version of what computes it."""
    device: str
    driver: str
    """Its version; empty: nobody knows it, so that it may have changed since the last time."""

    @property
    def where(self) -> str:
        """The device in words for people."""
        return f"{self.computed_by} on {self.device}" if self.device else self.computed_by


def require_right(engine: DeviceEngine, bound: float, distance: Callable[[], float]) -> None:
    """Believes an engine on a device, or compares it with the CPU first.

    What was right is remembered until the engine, the device, its driver or a library changes. What was wrong is
    compared again: another program may have used up the device's memory.

    Args:
        engine: What is to be believed.
        bound: Largest relative distance, by norm.
        distance: Computes the distance between what the device and what the CPU make of the bundle's self-test.

    Raises:
        EngineError: It computes something else; the text is a part of a sentence.
    """
    entry = {**asdict(engine), "bound": bound, "tool_version": __version__}
    checked = _read()
    if engine.driver and any({**one, "distance": None} == {**entry, "distance": None} for one in checked):
        return
    try:
        found = distance()
    except NumericError as error:
        raise EngineError(f"{engine.where} does not compute the bundle's self-test: {error}") from error
    if not found <= bound:
        raise EngineError(
            f"{engine.where} computes another {engine.engine} than the CPU: the results for the bundle's self-test "
            f"differ by {found:.1e}, and {bound:.0e} is allowed"
        )
    if engine.driver:
        with contextlib.suppress(OSError):  # only time is lost: the next run compares again
            kept = [*_read(), {**entry, "distance": found}][-_MOST_ENTRIES:]
            write_own_json(data_directory() / FILE_NAME, {"version": _VERSION, "checked": kept})


def _read() -> list[dict[str, object]]:
    content = read_own_json(data_directory() / FILE_NAME)
    checked = content.get("checked")
    if content.get("version") != _VERSION or not isinstance(checked, list):
        return []
    return [entry for entry in checked if isinstance(entry, dict)]
