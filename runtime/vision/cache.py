"""What the vision engines made of pictures that came before, found again by what is in them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from threading import Lock

import numpy as np

from valley2_edge.bundle import Manifest
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.preprocess import PreparedPicture
from valley2_edge.runtime.core.vision_engine import Array
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.vision.encoder import EncodedPictures, VisionEncoder

_HASHED_TOGETHER = 8 << 20
"""Bytes of pixels between two looks at the cancel token."""


@dataclass
class FoundPictures(EncodedPictures):
    """The embeddings of a turn's pictures, and how many of them were not computed for it."""

    hits: int = 0


class VisionCache:
    """Embeddings of pictures within a budget of bytes; what was used least recently goes first.

    Safe for threads, and shared by the sessions of a model. A picture is known by its pixels, once they are upright
    RGB, and by all that decides what becomes of them: caps, tiles, the Eagle branch, and the engines. File names,
    formats and metadata do not matter.

    Args:
        engines: Tells the vision engines from those of every other bundle.
        budget_bytes: Most bytes of embeddings that are kept; 0 keeps none.
    """

    def __init__(self, engines: str, budget_bytes: int) -> None:
        self._engines = engines
        self._budget_bytes = budget_bytes
        self._used_bytes = 0
        self._tokens: OrderedDict[bytes, Array] = OrderedDict()  # the least recently used first
        self._lock = Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes of embeddings that are kept now."""
        return self._used_bytes

    @property
    def budget_bytes(self) -> int:
        """Most bytes of embeddings that may be kept."""
        return self._budget_bytes

    def resize(self, budget_bytes: int) -> None:
        """Sets another budget and drops what is beyond it."""
        with self._lock:
            self._budget_bytes = budget_bytes
            self._drop_to(budget_bytes)

    def encode(
        self,
        encoder: VisionEncoder,
        pictures: Sequence[PreparedPicture],
        cancel: CancelToken,
        on_progress: ProgressCallback = ignore_progress,
    ) -> FoundPictures:
        """The embeddings of one turn's pictures; the engines run for those that are not known.

        Args:
            encoder: The engines.
            pictures: As `VisionEncoder.encode` takes them; of equal ones, one is encoded.
            cancel: As `VisionEncoder.encode` takes it.
            on_progress: Told of the pictures that are encoded.

        Returns:
            The embeddings, which nobody may write to.

        Raises:
            Cancelled, BundleError, NumericError, BudgetError: As `VisionEncoder.encode` does.
        """
        if self._budget_bytes == 0:
            encoded = encoder.encode(pictures, cancel, on_progress)
            return FoundPictures(encoded.tokens, encoded.times, encoded.vocabulary)
        keys = [self._key(picture, cancel) for picture in pictures]
        found = {key: tokens for key in dict.fromkeys(keys) if (tokens := self._find(key)) is not None}
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in found}
        encoded = encoder.encode(list(missing.values()), cancel, on_progress)
        for key, tokens in zip(missing, encoded.tokens, strict=True):
            tokens.flags.writeable = False
            found[key] = tokens
            self._keep(key, tokens)
        return FoundPictures([found[key] for key in keys], encoded.times, encoded.vocabulary, len(keys) - len(missing))

    def clear(self) -> None:
        """Forgets all pictures."""
        with self._lock:
            self._drop_to(0)

    def _key(self, picture: PreparedPicture, cancel: CancelToken) -> bytes:
        digest = hashlib.blake2b(digest_size=32)
        digest.update(repr((self._engines, astuple(picture.geometry), astuple(picture.options))).encode())
        pixels = np.ascontiguousarray(picture.pixels).reshape(-1)  # the geometry before it has its size
        for first in range(0, pixels.size, _HASHED_TOGETHER):
            cancel.check()
            digest.update(pixels[first : first + _HASHED_TOGETHER].data)
        return digest.digest()

    def _find(self, key: bytes) -> Array | None:
        with self._lock:
            tokens = self._tokens.get(key)
            if tokens is not None:
                self._tokens.move_to_end(key)
            return tokens

    def _keep(self, key: bytes, tokens: Array) -> None:
        with self._lock:
            # Another thread may have been as quick.
            if key in self._tokens or tokens.nbytes > self._budget_bytes:
                return
            self._drop_to(self._budget_bytes - tokens.nbytes)
            self._tokens[key] = tokens
            self._used_bytes += tokens.nbytes

    def _drop_to(self, budget_bytes: int) -> None:
        while self._used_bytes > budget_bytes:
            _, tokens = self._tokens.popitem(last=False)
            self._used_bytes -= tokens.nbytes


def engines_of(manifest: Manifest, engine: str) -> str:
    """Tells what computes a bundle's vision half from all others: the engine, and the hashes of the towers.

    Args:
        manifest: The bundle's manifest.
        engine: The name of what computes.
    """
    parts = [engine]
    for component in (manifest.siglip, manifest.projector, manifest.eagle):
        if component is not None:
            parts += [manifest.files[name].sha256 for name in component.files]
    return " ".join(parts)
