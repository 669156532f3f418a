"""The engines of a loaded bundle: what the sessions of a model share, and a verification asks one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from valley2_edge.config import ModelConfig
from valley2_edge.errors import InputError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.prompt import split_at_pictures
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.vision.encoder import VisionEncoder

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Engines:
    """A bundle's tokenizer, vision engines and decoder."""

    architecture: ModelConfig
    tokenizer: Tokenizer
    vision: VisionEncoder
    decoder: Decoder

    def embeddings(self, segments: Sequence[Array]) -> Array:
        """The decoder's input, (L, hidden): token segments looked up, picture segments as they are."""
        return np.concatenate([part if part.ndim == 2 else self.decoder.embed(part) for part in segments])

    def close(self) -> None:
        """Unloads the engines; every session of the decoder must be closed before."""
        self.tokenizer.close()
        self.vision.close()
        self.decoder.close()


def prompt_segments(ids: Sequence[int], pictures: Sequence[Array]) -> list[Array]:
    """A prompt as the decoder takes it.

    Args:
        ids: Tokens, with `PICTURE_ID` where a picture stands.
        pictures: The embeddings of each picture, (n, hidden); those beyond the prompt's places are not used.

    Returns:
        Token ids (n,) int32 and embeddings (n, hidden) float32 in order.

    Raises:
        InputError: There are more places than pictures.
    """
    runs = split_at_pictures(ids)
    if len(runs) - 1 > len(pictures):
        raise InputError(f"The prompt has {len(runs) - 1} places for {len(pictures)} pictures.")
    segments: list[Array] = []
    for index, run in enumerate(runs):
        segments += [pictures[index - 1]] if index else []
        segments += [np.array(run, np.int32)] if run else []
    return segments
