"""Many questions about the same pictures, each asked as if it were the first and only one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError
from valley2_edge.options import DEFAULT_FRAMES
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.core import prompt
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason
from valley2_edge.runtime.core.preprocess import prepare_pictures
from valley2_edge.runtime.engines import Engines, prompt_segments
from valley2_edge.runtime.media.sources import ImageSources, load_pictures, sort_sources
from valley2_edge.runtime.media.video import VideoSource
from valley2_edge.text_limits import check_text

Array = npt.NDArray[Any]
Logits = npt.NDArray[np.float32]

LOGIT_ROWS = 64
"""Most rows of logits that are computed at once: 39 MB with Qwen2.5's vocabulary."""


@dataclass(frozen=True)
class Reply:
    """A greedy answer."""

    text: str
    tokens: tuple[int, ...]
    """With the stop token, where the model ended the answer itself."""


class Inquiry:
    """Independent questions about the same pictures, answered greedily.

    An answer is the one that a new `Session` would give; no question sees another. Pictures are encoded once, and the
    part of a prompt that it shares with the one before is not computed again. It belongs to one thread at a time.

    Args:
        engines: Of a loaded bundle, with `keep_vision` unless loading them for every picture is wanted.
        policy: The choices about pictures.
        system: System prompt; None is the policy's default.
        kv_precision: Of the KV cache: auto, fp32, fp16 or int8.

    Raises:
        InputError: An option is out of range, or the policy is strict, where a question's text decides about pictures.
    """

    def __init__(
        self,
        engines: Engines,
        *,
        policy: Policy | None = None,
        system: str | None = None,
        kv_precision: str = "auto",
    ) -> None:
        self._policy = policy or Policy()
        if self._policy.strict:
            raise InputError("Several questions about the same pictures cannot be asked under a strict policy.")
        if system is not None:
            check_text(system, "The system prompt")
        self._engines = engines
        self._layout = prompt.Layout(self._policy, engines.architecture.picture.use_special_start_end_token)
        self._system = system
        self._pictures: list[Array] = []
        """Embeddings of each picture, (n, hidden)."""
        self._cached: list[int] = []
        """Tokens in the KV cache, `PICTURE_ID` for a whole picture."""
        self._decoder = engines.decoder.session(kv_precision=kv_precision)

    def show(
        self, images: ImageSources = (), *, video: VideoSource | None = None, frames: int = DEFAULT_FRAMES
    ) -> None:
        """Shows other pictures, or none; the questions that follow are about them. After a failure all is as before.

        Args:
            images: As in `Session.ask`.
            video: As in `Session.ask`.
            frames: As in `Session.ask`.

        Raises:
            InputError: A picture or the video is unusable.
            BudgetError: The memory does not suffice.
            NumericError: An engine computed a NaN or an infinity.
        """
        images, video = sort_sources(images, video)
        token = CancelToken()
        pixels = load_pictures(images, video, frames, self._policy, token)
        prepared = prepare_pictures(pixels, self._engines.architecture, self._policy, video=video is not None)
        pictures = list(self._engines.vision.encode(prepared, token).tokens)
        # What is cached up to the first picture holds for the next ones, too.
        if prompt.PICTURE_ID in self._cached:
            self._cached = self._cached[: self._cached.index(prompt.PICTURE_ID)]
        self._pictures = pictures

    def ask(self, question: str, *, max_new_tokens: int = 64, think: bool = False) -> Reply:
        """Answers a question.

        Args:
            question: Text.
            max_new_tokens: Tokens of the answer at most.
            think: Ask for the four-step answer.

        Raises:
            InputError: The question is empty, or max_new_tokens is below 1.
            BudgetError: The context or the memory does not suffice.
            NumericError: A NaN or an infinity; the text names the layer.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
        self._prefill(self._prompt(question, think))
        stops = self._engines.architecture.stop_tokens
        tokens: list[int] = []
        options = GenerateOptions(max_new_tokens=max_new_tokens, stop_tokens=stops)
        try:
            reason = run_interruptibly(lambda: self._decoder.generate(options, tokens.append), self._decoder.cancel)
        finally:
            self._decoder.resume()
        self._cached += tokens
        text = self._engines.tokenizer.decode(tokens)
        if reason == StopReason.TOKEN:
            # The core keeps the stop token to itself; greedily, it is the likeliest.
            tokens.append(int(self._decoder.logits(1)[0].argmax()))
        return Reply(text, tuple(tokens))

    def logits(self, question: str, tokens: Sequence[int], *, think: bool = False) -> Logits:
        """The model's logits for each token of a given answer, after the question and the answer's tokens before it.

        Args:
            question: Text.
            tokens: Of the answer, at least one; they need not be what this model would say.
            think: Ask for the four-step answer.

        Returns:
            (len(tokens), vocabulary_size) float32.

        Raises:
            InputError: The question or the answer is empty.
            BudgetError: The context or the memory does not suffice.
            NumericError: A NaN or an infinity; the text names the layer.
        """
        return np.concatenate(list(self.logit_blocks(question, tokens, think=think)))

    def logit_blocks(self, question: str, tokens: Sequence[int], *, think: bool = False) -> Iterator[Logits]:
        """The rows of `logits` in order, at most `LOGIT_ROWS` in memory at a time.

        Args:
            question: As in `logits`.
            tokens: As in `logits`.
            think: As in `logits`.

        Yields:
            (n, vocabulary_size) float32.

        Raises:
            Valley2Error: As in `logits`.
        """
        yield from self._logit_blocks(self._prompt(question, think), tokens)

    def text_logit_blocks(self, before: Sequence[int], tokens: Sequence[int]) -> Iterator[Logits]:
        """The model's logits for each token of a text that is no conversation, after the tokens before it.

        Args:
            before: Token ids that the text begins with, at least one.
            tokens: The ids that follow, at least one.

        Yields:
            (n, vocabulary_size) float32, n at most `LOGIT_ROWS`; one row for each of `tokens` in all.

        Raises:
            InputError: There is no token to begin with or none to predict, or one is outside the vocabulary.
            BudgetError: The context or the memory does not suffice.
            NumericError: A NaN or an infinity; the text names the layer.
        """
        if not before:
            raise InputError("The first token of a text has nothing to be predicted from.")
        yield from self._logit_blocks(list(before), tokens)

    def close(self) -> None:
        """Frees the KV cache."""
        self._decoder.close()

    def _prompt(self, question: str, think: bool) -> list[int]:
        check_text(question)
        if not question.strip():
            raise InputError("The question is empty.")
        text = prompt.with_thinking(question) if think else question
        parts = prompt.build_first_turn(text, len(self._pictures), self._system, self._layout)
        return prompt.encode(parts, self._engines.tokenizer)

    def _logit_blocks(self, ids: list[int], tokens: Sequence[int]) -> Iterator[Logits]:
        if not tokens:
            raise InputError("An answer without tokens has no logits.")
        for start in range(0, len(tokens), LOGIT_ROWS):
            stop = min(start + LOGIT_ROWS, len(tokens))
            self._prefill([*ids, *tokens[: stop - 1]], logit_rows=stop - start)
            yield self._decoder.logits(stop - start)

    def _prefill(self, ids: list[int], logit_rows: int = 1) -> None:
        """Makes the cache hold `ids`, and keeps the logits of the last rows."""
        # Rows of logits come from what is computed anew only.
        shared = min(_shared_length(self._cached, ids), len(ids) - logit_rows)
        pictures_shared = ids[:shared].count(prompt.PICTURE_ID)
        positions = shared - pictures_shared + sum(len(picture) for picture in self._pictures[:pictures_shared])
        self._decoder.truncate(positions)
        self._cached = ids[:shared]
        segments = prompt_segments(ids[shared:], self._pictures[pictures_shared:])
        try:
            run_interruptibly(lambda: self._decoder.prefill(segments, logit_rows=logit_rows), self._decoder.cancel)
        finally:
            # After Ctrl-C the inquiry stays usable.
            self._decoder.resume()
        self._cached = ids

    def __enter__(self) -> Inquiry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length
