"""Runs a bundle's decoder, as the run time computes it, on samples that are encoded already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch

from valley2_edge.calibration.encode import Branch, EncodedSample
from valley2_edge.export.checkpoint.embedding_table import EmbeddingTable
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason
from valley2_edge.runtime.inquiry import LOGIT_ROWS

Tokens = tuple[int, ...]
Activations = Literal["int8", "int16"]
"""The integers that the inputs of quantised matrices are rounded to while the decoder runs."""


class RoundedModel:
    """The native decoder of a bundle.

    Args:
        directory: The bundle, finished or being made.
        embed: The embedding table of the bundle.
        stops: Tokens that end an answer.
        activations: "int8", which is the default of a chat, or "int16", whose error is negligible beside that of int4.
    """

    def __init__(
        self, directory: Path, embed: EmbeddingTable, stops: Tokens, activations: Activations = "int8"
    ) -> None:
        self._embed = embed
        self._stops = stops
        self._decoder = Decoder(directory / "decoder", threads=torch.get_num_threads(), activations=activations)
        self._session = self._decoder.session()
        self._shown: EncodedSample | None = None

    def logit_blocks(self, sample: EncodedSample, branch: Branch) -> Iterator[torch.Tensor]:
        """The logits of the rows that predict the answer of a branch, in order.

        Args:
            sample: The sample that has the branch.
            branch: The question and its answer.

        Yields:
            (n, vocabulary) float32, n at most `LOGIT_ROWS`; len(branch.answer) rows in all.
        """
        before = branch.prompt_rows - 1  # the rows before the one that predicts the answer's first token
        for start in range(0, len(branch.answer), LOGIT_ROWS):
            stop = min(start + LOGIT_ROWS, len(branch.answer))
            if start == 0:
                self._prefill(sample, branch.tokens[: before + stop], stop)
            else:
                rows = self._embed(branch.tokens[before + start : before + stop])
                self._session.prefill([rows], logit_rows=stop - start)
            yield torch.from_numpy(self._session.logits(stop - start))

    def answer(self, sample: EncodedSample, branch: Branch, begin: Tokens, limit: int) -> Tokens:
        """The greedy answer to a branch's question.

        Args:
            sample: The sample that has the branch.
            branch: The question; its own answer is not looked at.
            begin: Tokens that the answer begins with.
            limit: Largest number of tokens of the answer.

        Returns:
            The whole answer, with the stop token where the model ended it.
        """
        if len(begin) >= limit:
            return begin[:limit]
        self._prefill(sample, (*branch.tokens[: branch.prompt_rows], *begin), 1)
        new: list[int] = []
        options = GenerateOptions(max_new_tokens=limit - len(begin), stop_tokens=self._stops)
        reason = self._session.generate(options, new.append)
        if reason == StopReason.TOKEN:
            # The core does not report the stop token; a greedy answer ends with the likeliest one.
            new.append(int(self._session.logits(1)[0].argmax()))
        return (*begin, *new)

    def close(self) -> None:
        """Frees the KV cache and the mapping of the weights."""
        self._session.close()
        self._decoder.close()

    def _prefill(self, sample: EncodedSample, tokens: Sequence[int], logit_rows: int) -> None:
        if sample is not self._shown:
            self._session.truncate(0)
            if sample.prefix_rows:
                self._session.prefill([np.ascontiguousarray(sample.embeddings[: sample.prefix_rows])])
            self._shown = sample
        self._session.truncate(sample.prefix_rows)
        self._session.prefill([self._embed(tokens)], logit_rows=logit_rows)

    def __enter__(self) -> RoundedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
