"""Samples of more than 8 bits to 8; what is white is the format's word, never the brightest sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _SMALLEST, _LARGEST = 258, 262, 339, 340, 341
_SIGNED = 2
_WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class SampleRange:
    """What the samples of a grey picture mean."""

    bits: int = 16
    """How many bits an integer sample has."""
    signed: bool = False
    """Black is the smallest integer of these bits, white the largest; the TIFF specification's default range."""
    black: float = 0.0
    """The float sample that is black."""
    white: float = 1.0
    inverted: bool = False
    """White and black change places."""

    def to_bytes(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Scales samples to 8 bits.

        Args:
            samples: (height, width) of uint8, uint16, int32 or float32. Unsigned integers of 32 bits come as int32.

        Returns:
            (height, width). Integers of 16 and 32 bits keep their highest 8 bits, as Pillow does with colours of 16
            bits; others are rounded. What lies beyond black or white is cut off.
        """
        scaled = self._from_floats(samples) if samples.dtype.kind == "f" else self._from_integers(samples)
        return np.invert(scaled) if self.inverted else scaled

    def _from_floats(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        with np.errstate(all="ignore"):
            values = samples.astype(np.float32)
            values -= np.float32(self.black)
            values *= np.float32(255 / (self.white - self.black))
        values[np.isnan(values)] = 0
        np.clip(values, 0, 255, out=values)
        scaled: NDArray[np.uint8] = np.rint(values, out=values).astype(np.uint8)
        return scaled

    def _from_integers(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        if self.bits == 32 and not self.signed:
            highest: NDArray[np.uint8] = (samples.view(np.uint32) >> 24).astype(np.uint8)
            return highest
        if samples.dtype == np.uint8:  # signed ones of 8 bits come as they lie in the file
            flipped: NDArray[np.uint8] = np.bitwise_xor(samples, np.uint8(0x80 if self.signed else 0))
            return flipped
        half = 1 << (self.bits - 1)
        low, high = (-half, half - 1) if self.signed else (0, 2 * half - 1)
        unsigned = np.clip(samples.astype(np.int64), low, high) - low
        exact = self.bits in (16, 32)
        scaled = unsigned >> (self.bits - 8) if exact else np.rint(unsigned * (255 / (high - low)))
        result: NDArray[np.uint8] = scaled.astype(np.uint8)
        return result


def range_of(image: Image.Image) -> SampleRange | None:
    """How the samples of a picture become 8 bits; None: Pillow's own conversion is right.

    Pillow scales PNG and PGM to 16 bits by their own metadata. A TIFF has its bits, its sign and its
    photometric interpretation in tags; its floats are white at 1 unless SMinSampleValue and SMaxSampleValue say else.

    Args:
        image: At the page that is meant.
    """
    tags: Any = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    wide = image.mode.startswith("I") or image.mode == "F"
    if tags is None:
        return SampleRange() if wide else None
    signed = _first(tags, _SAMPLE_FORMAT, 1) == _SIGNED
    if not wide and not (signed and image.mode == "L"):
        return None
    bits = min(max(int(_first(tags, _BITS_PER_SAMPLE, 16)), 8), 32)
    black, white = float(_first(tags, _SMALLEST, 0.0)), float(_first(tags, _LARGEST, 1.0))
    if not white > black or not np.isfinite((black, white)).all():
        black, white = 0.0, 1.0
    # Pillow itself inverts samples of 8 bits.
    inverted = wide and _first(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    return SampleRange(bits, signed, black, white, inverted)


def _first(tags: Any, tag: int, default: float) -> float:
    value = tags.get(tag, default)
    if isinstance(value, tuple):
        value = value[0] if value else default
    return value if isinstance(value, (int, float)) else default
