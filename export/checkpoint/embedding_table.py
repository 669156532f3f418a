"""Looks tokens up in the embedding table of a checkpoint without loading the whole table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from valley2_edge.errors import InputError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS


class EmbeddingTable:
    """The embedding table of a checkpoint, which reads one row for each token that it has not seen before.

    Args:
        checkpoint: The checkpoint that holds the table.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._known: dict[int, NDArray[np.float32]] = {}

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The rows of some tokens.

        Args:
            tokens: n token ids.

        Returns:
            (n, hidden) float32.

        Raises:
            InputError: A token is not in the table.
        """
        vocabulary, hidden = self._checkpoint.shape(EMBEDDINGS)
        rows = np.empty((len(tokens), hidden), np.float32)
        for place, token in enumerate(tokens):
            if not 0 <= token < vocabulary:
                raise InputError(f"The token {token} is outside of the vocabulary of {vocabulary}.")
            if token not in self._known:
                row = self._checkpoint.rows(EMBEDDINGS, token, token + 1)
                self._known[token] = row.to(torch.float32)[0].numpy()
            rows[place] = self._known[token]
        return rows
