"""A model with one of its two branches of vision switched off, to measure what the branch is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from valley2_edge.errors import InputError
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.pixels import stitch_tiles
from valley2_edge.runtime.core.preprocess import PreparedPicture
from valley2_edge.runtime.inquiry import Inquiry
from valley2_edge.runtime.model import Valley2
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.vision.encoder import EncodedPictures, VisionEncoder


class BlindSiglip(VisionEncoder):
    """Vision engines whose SigLIP sees nothing: the features of every tile are zeros.

    The tiles keep their places in the prompt, so that all that is missing is what they show.
    """

    def encode(
        self, pictures: Sequence[PreparedPicture], cancel: CancelToken, on_progress: ProgressCallback = ignore_progress
    ) -> EncodedPictures:
        """As `VisionEncoder.encode`, but for SigLIP; nothing is cached, and no progress told."""
        siglip = self._architecture.siglip
        nothing = np.zeros((1, siglip.patches_per_side**2, siglip.hidden_size), np.float32)
        tokens = self.project(nothing, cancel)  # (1, side * side, hidden)
        encoded = EncodedPictures([])
        for picture in pictures:
            tiles = np.repeat(tokens, picture.geometry.tile_count, axis=0)  # (tile_count, side * side, hidden)
            parts = [stitch_tiles(tiles, picture.geometry, picture.options)]
            if picture.options.eagle:
                parts.append(self.eagle(*picture.patches(cancel), cancel))
            encoded.tokens.append(np.concatenate(parts))
        return encoded


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
