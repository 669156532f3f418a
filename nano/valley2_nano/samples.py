"""From a dialogue about pictures to token ids and uint8 patches, through the run time's own preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.config import ModelConfig
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.pixels import stitch_tiles
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.core.prompt import PICTURE_ID, Layout, build_first_turn, encode
from valley2_edge.runtime.core.tokenizer import END_OF_TURN, Tokenizer

Bytes = NDArray[np.uint8]
Signed = NDArray[np.int8]
Numbers = NDArray[np.int64]

# docs/valley2.md, "Patches"
EAGLE_MEAN = (0.48145466, 0.4578275, 0.40821073)
EAGLE_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

_EAGLE_MEAN = np.repeat(np.array(EAGLE_MEAN, np.float32), 14 * 14)  # (588,)
_EAGLE_DEVIATION = np.repeat(np.array(EAGLE_DEVIATION, np.float32), 14 * 14)


@dataclass(frozen=True)
class PictureInput:
    """What the towers take in of one picture; pixels are the 8-bit values less 128, not normalised yet."""

    tile_patches: Signed
    """(tiles * patches of a tile, 3 * patch * patch), each [channel][y][x]."""
    stitched: Numbers
    """(SigLIP tokens,): which of the tiles' projected tokens stand in the prompt, in order."""
    eagle_patches: Signed
    """(patches, 588)."""
    eagle_positions: NDArray[np.int16]
    """(patches, 2)."""


@dataclass(frozen=True)
class TurnInput:
    """The ids of one question and its answer."""

    prompt: tuple[int, ...]
    """Token ids, with `PICTURE_ID` where a picture stands."""
    answer: tuple[int, ...]
    """`<|im_end|>` included; empty where only the prompt is wanted."""


@dataclass(frozen=True)
class Sample:
    """Pictures and the turns that are asked about them, each on its own."""

    pictures: tuple[PictureInput, ...]
    turns: tuple[TurnInput, ...]


class SampleMaker:
    """Prepares dialogues as a session with default options would.

    Args:
        tokenizer: The model's.
        config: The architecture.
        policy: How pictures are cut; None is a session's default.
    """

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, policy: Policy | None = None) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._policy = policy or Policy()
        self._layout = Layout(self._policy, config.picture.use_special_start_end_token)

    def sample(
        self, pictures: Sequence[Image.Image | Bytes], turns: Sequence[tuple[str, str | None]], *, video: bool = False
    ) -> Sample:
        """Prepares one dialogue.

        Args:
            pictures: RGB pictures, or the frames of a clip.
            turns: Questions and answers; the answer None: only the prompt.
            video: The pictures are frames.

        Raises:
            InputError: A picture is too thin for the Eagle branch.
        """
        pixels = [np.asarray(picture) for picture in pictures]
        prepared = prepare_pictures(pixels, self._config, self._policy, video=video)
        encoded = tuple(self.turn(question, answer, len(prepared)) for question, answer in turns)
        return Sample(tuple(self._picture(picture) for picture in prepared), encoded)

    def turn(self, question: str, answer: str | None, picture_count: int) -> TurnInput:
        """Encodes a question and its answer; tags in the answer become the control tokens of that name."""
        prompt = encode(build_first_turn(question, picture_count, None, self._layout), self._tokenizer)
        if answer is None:
            return TurnInput(tuple(prompt), ())
        ids = self._tokenizer.encode_with_controls(answer)
        return TurnInput(tuple(prompt), (*ids, self._tokenizer.control_id(END_OF_TURN)))

    def _picture(self, picture: PreparedPicture) -> PictureInput:
        tiles = np.rint((picture.tiles() + 1) * np.float32(127.5) - 128).astype(np.int8)  # (tiles, 3, size, size)
        patches, positions = picture.patches()
        return PictureInput(
            tile_patches=_cut(tiles, self._config.siglip.patch_size, self._config.siglip.patches_per_side),
            stitched=_stitched(picture, len(tiles)),
            eagle_patches=np.rint((patches * _EAGLE_DEVIATION + _EAGLE_MEAN) * 255 - 128).astype(np.int8),
            eagle_positions=positions.astype(np.int16),
        )


def shared_prefix(turns: Sequence[TurnInput]) -> int:
    """Ids at the beginning that all prompts have in common, at least one fewer than the shortest prompt."""
    shortest = min(len(turn.prompt) for turn in turns) - 1
    first = turns[0].prompt
    for index in range(shortest):
        if any(turn.prompt[index] != first[index] for turn in turns):
            return index
    return shortest


def picture_places(ids: Sequence[int]) -> int:
    """How many pictures stand among the ids."""
    return sum(identifier == PICTURE_ID for identifier in ids)


def _cut(tiles: Signed, patch: int, side: int) -> Signed:
    """(tiles, 3, size, size) to (tiles * side * side, 3 * patch * patch); what does not fill a patch is dropped."""
    kept = tiles[:, :, : side * patch, : side * patch]
    cut = kept.reshape(len(tiles), 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(cut).reshape(len(tiles) * side * side, 3 * patch * patch)


def _stitched(picture: PreparedPicture, tiles: int) -> Numbers:
    per_tile = picture.options.tokens_per_side**2
    numbers = np.arange(tiles * per_tile, dtype=np.float32).reshape(tiles, per_tile, 1)
    stitched = stitch_tiles(numbers, picture.geometry, picture.options)[:, 0]  # (SigLIP tokens,)
    return stitched.astype(np.int64)
