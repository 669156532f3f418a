"""Encodes a sample into the embeddings that the decoder takes, as a session would make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from valley2_edge.calibration.jsonl import FRAMES
from valley2_edge.calibration.samples import Sample
from valley2_edge.config import ModelConfig
from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core import prompt
from valley2_edge.runtime.core.preprocess import prepare_pictures
from valley2_edge.runtime.core.process_memory import trim_heap
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.media.sources import load_pictures, sort_sources
from valley2_edge.runtime.vision.encoder import VisionEncoder

NO_TARGET = -1
"""The target of a row that predicts no token of an answer."""

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[int]], Floats]
"""Looks n token ids up in the embedding table, and returns (n, hidden) float32."""


@dataclass(frozen=True)
class Branch:
    """The rows of one turn after the shared prefix: the rest of its prompt, and the answer without the stop token."""

    tokens: tuple[int, ...]
    """The ids of the branch's rows."""
    answer: tuple[int, ...]
    """The ids of the answer and the stop token; the branch's last len(answer) rows predict them."""

    @property
    def prompt_rows(self) -> int:
        """Number of rows before the answer."""
        return len(self.tokens) - len(self.answer) + 1


@dataclass(frozen=True)
class EncodedSample:
    """A sample as rows of embeddings: the prefix that all its turns share, then each turn's own rows."""

    name: str
    embeddings: Floats
    """(L, hidden) float32: the prefix, then the branches in order."""
    is_picture: NDArray[np.bool_]
    """(L,): whether a row belongs to a picture."""
    prefix_rows: int
    """Number of rows of the prefix."""
    branches: tuple[Branch, ...]

    @property
    def targets(self) -> NDArray[np.int64]:
        """(L,): the token of an answer that a row predicts, or `NO_TARGET`."""
        targets = np.full(len(self.embeddings), NO_TARGET, np.int64)
        end = self.prefix_rows
        for branch in self.branches:
            end += len(branch.tokens)
            targets[end - len(branch.answer) : end] = branch.answer
        return targets


class SampleEncoder:
    """Encodes samples as the run time does, with the bundle's own vision engines and prompt.

    Args:
        config: The architecture.
        tokenizer: The tokenizer of the checkpoint or the bundle.
        vision: The bundle's vision engines.
        embed: The decoder's embedding table.
        policy: A session's choices about pictures; None means a session's defaults.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        vision: VisionEncoder,
        embed: Embed,
        policy: Policy | None = None,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._vision = vision
        self._embed = embed
        self._policy = policy or Policy()
        self._layout = prompt.Layout(self._policy, config.picture.use_special_start_end_token)

    def encode(self, sample: Sample) -> EncodedSample:
        """Encodes a sample; each of its pictures goes through the engines once.

        Args:
            sample: The sample.

        Raises:
            InputError: A picture is unusable, or there is no turn; the message names the sample.
            NumericError: An engine computed a NaN or an infinity.
        """
        if not sample.turns:
            raise InputError(f"Calibration {sample.name} has no turn.")
        try:
            pictures = self._encode_pictures(sample)
            turns = [self._tokens(turn.prompt, turn.answer, len(pictures)) for turn in sample.turns]
        except Valley2Error as error:
            raise type(error)(f"Calibration {sample.name}: {error}") from error
        prefix = _shared_prefix(turns) if len(turns) > 1 else _after_pictures(turns[0][0])
        head, is_picture = self._rows(turns[0][0][:prefix], pictures)
        branches = tuple(Branch(tuple(ids[prefix:]), tuple(answer)) for ids, answer in turns)
        tails = [self._embed(branch.tokens) for branch in branches]
        total = len(head) + sum(len(tail) for tail in tails)
        mask = np.zeros(total, np.bool_)
        mask[: len(head)] = is_picture
        return EncodedSample(sample.name, np.concatenate([head, *tails]), mask, len(head), branches)

    def release(self) -> None:
        """Frees the memory of the vision engines; the next sample with pictures loads them again."""
        self._vision.release()
        trim_heap()

    def _encode_pictures(self, sample: Sample) -> list[Floats]:
        """The tokens of each picture, (n, hidden) float32."""
        token = CancelToken()
        images, video = sort_sources(sample.images, sample.video)
        pixels = load_pictures(images, video, FRAMES, self._policy, token)
        prepared = prepare_pictures(pixels, self._config, self._policy, video=video is not None)
        return list(self._vision.encode(prepared, token).tokens)

    def _tokens(self, question: str, answer: str, picture_count: int) -> tuple[list[int], list[int]]:
        """The ids of the rows, with `PICTURE_ID` for a picture, and the ids of the answer with its stop token."""
        parts = prompt.build_first_turn(question, picture_count, None, self._layout)
        ids = prompt.encode(parts, self._tokenizer)
        spoken = prompt.encode_answer(answer, self._tokenizer, self._config.stop_tokens[0])
        return [*ids, *spoken[:-1]], spoken

    def _rows(self, ids: Sequence[int], pictures: Sequence[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        rows: list[Floats] = []
        kinds: list[NDArray[np.bool_]] = []
        for index, run in enumerate(prompt.split_at_pictures(ids)):
            if index:
                rows.append(pictures[index - 1])
                kinds.append(np.ones(len(pictures[index - 1]), np.bool_))
            if run:
                rows.append(self._embed(run))
                kinds.append(np.zeros(len(run), np.bool_))
        if not rows:
            return np.zeros((0, self._config.decoder.hidden_size), np.float32), np.zeros(0, np.bool_)
        return np.concatenate(rows), np.concatenate(kinds)


def _shared_prefix(turns: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Number of ids at the beginning that all prompts share; each prompt keeps at least its last id for itself."""
    # The rows are the prompt and the answer without its stop token; the last id of the prompt predicts the answer.
    shortest = min(len(ids) - len(answer) for ids, answer in turns)
    first = turns[0][0]
    for place in range(shortest):
        if any(ids[place] != first[place] for ids, _ in turns):
            return place
    return shortest


def _after_pictures(ids: Sequence[int]) -> int:
    """Number of ids up to the last picture, which must be in the prefix."""
    return max((place + 1 for place, token in enumerate(ids) if token == prompt.PICTURE_ID), default=0)
