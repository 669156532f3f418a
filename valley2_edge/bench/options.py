"""What a run of `valley2-edge bench` measures, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from valley2_edge.errors import InputError
from valley2_edge.options import EaglePreset, LoadOptions

Part = Literal["prefill", "decode", "siglip", "projector", "eagle", "first-token"]
PARTS: tuple[Part, ...] = get_args(Part)
DECODER_PARTS: tuple[Part, ...] = ("prefill", "decode")
"""The parts that need no bundle."""


@dataclass(frozen=True)
class Options:
    """What is measured, and how often."""

    parts: tuple[Part, ...] | None = None
    """The parts in the order of computation; None: every part that there is."""
    lengths: tuple[int, ...] = (128, 512, 1024)
    """Numbers of positions to prefill."""
    context: int = 512
    """Positions before decoding begins."""
    new_tokens: int = 16
    """Tokens to decode in every repetition."""
    eagle_preset: EaglePreset = "balanced"
    """Preset of the picture in the parts eagle and first-token."""
    warm_up: int = 1
    """Repetitions before those that count."""
    repetitions: int = 5
    """Repetitions that count."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """Where and with what the model computes; the caches for pictures and prompts are off in any case."""

    def __post_init__(self) -> None:
        for name in ("context", "new_tokens", "repetitions"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.warm_up < 0:
            raise InputError(f"--warm-up must be at least 0, not {self.warm_up}")
        if not self.lengths or min(self.lengths) < 1:
            raise InputError("--lengths are those of prefills: each must be at least 1")


def parse_parts(text: str) -> tuple[Part, ...]:
    """The parts that a user names, separated by commas, in the order of computation.

    Raises:
        InputError: There is no part of that name.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PARTS:
            raise InputError(f"--parts has no {name!r}; there are {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in names)
