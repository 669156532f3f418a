"""A model with one of its two branches of vision switched off, to measure what the branch is worth."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from valley2_edge.errors import InputError
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.inquiry import Inquiry
from valley2_edge.runtime.model import Valley2
from valley2_edge.runtime.vision.encoder import VisionEncoder


class BlindSiglip(VisionEncoder):
    """Vision engines whose SigLIP sees nothing: the features of every tile are zeros.

    The tiles keep their places in the prompt, so that all that is missing is what they show.
    """

    def siglip(self, tiles: NDArray[np.float32], cancel: CancelToken | None = None) -> NDArray[np.float32]:
        """Zeros (T, patches, channels) for tiles (T, 3, size, size)."""
        if cancel is not None:
            cancel.check()
        siglip = self._bundle.manifest.architecture.siglip
        return np.zeros((len(tiles), siglip.patches_per_side**2, siglip.hidden_size), np.float32)


def inquiry_of(model: Valley2, *, eagle: bool = True, tiles: bool = True, kv_precision: str = "auto") -> Inquiry:
    """What asks a loaded model, with both branches or without one.

    Args:
        model: A model that was loaded with keep_vision.
        eagle: False leaves the tokens of the Eagle branch out.
        tiles: False replaces the SigLIP features of the tiles by zeros.
        kv_precision: Precision of the KV cache: auto, fp32, fp16 or int8.

    Raises:
        InputError: eagle is False, but the bundle has no Eagle branch, or kv_precision means nothing.
    """
    engines = model.engines
    if not eagle and engines.architecture.eagle is None:
        raise InputError(f"{model.bundle.directory} has no Eagle branch that could be switched off.")
    if not tiles:
        blind = BlindSiglip(model.bundle, threads=engines.decoder.description.threads, keep=True)
        engines = dataclasses.replace(engines, vision=blind)
    return Inquiry(engines, policy=Policy(eagle=eagle), kv_precision=kv_precision)
