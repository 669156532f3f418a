"""The models that come with the package, found by name: "nano" is valley2-nano (docs/nano.md)."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_CHECKPOINTS = {"nano": _HERE / "valley2-nano"}
BUILTIN_BUNDLES = {"nano": _HERE / "valley2-nano-int4"}
"""The directories of the ready bundles by name."""


def builtin_checkpoint(name: str | Path) -> Path | None:
    """The directory of the checkpoint of that name, or None when the package has none."""
    return _CHECKPOINTS.get(str(name))


def builtin_bundle(name: str | Path) -> Path | None:
    """The directory of the ready int4 bundle of that name, or None when the package has none."""
    return BUILTIN_BUNDLES.get(str(name))
