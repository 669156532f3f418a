"""Turns a calibration set into the input of the decoder's first layer, by the vision half of the bundle being made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from valley2_edge.bundle import Bundle
from valley2_edge.calibration.encode import EncodedSample, SampleEncoder
from valley2_edge.calibration.packs import PACK_TOKENS, Pack, pack_samples
from valley2_edge.calibration.samples import Sample
from valley2_edge.errors import InputError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.rounding.layer_store import LayerStore, flush_file
from valley2_edge.runtime.vision.encoder import VisionEncoder
from valley2_edge.tokenizer import Tokenizer

PACKS_FILE = "packs.json"
EMBEDDINGS = "model.embed_tokens.weight"
STAGE = "calibration pictures"

Progress = Callable[[str, int, int], None]


class EmbeddingTable:
    """Rows of a checkpoint's embedding table, one read for each token that is new.

    Args:
        checkpoint: Where the table is.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._known: dict[int, NDArray[np.float32]] = {}

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Rows of the table, (n, hidden) float32.

        Raises:
            InputError: A token is outside of the table.
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


def sample_encoder(checkpoint: Checkpoint, bundle: Bundle) -> SampleEncoder:
    """Encodes samples with the vision graphs of a bundle, finished or being made.

    Args:
        checkpoint: Where the tokenizer and the embedding table come from.
        bundle: With its vision components.
    """
    vision = VisionEncoder(bundle, threads=torch.get_num_threads(), keep=True)
    return SampleEncoder(checkpoint.config, Tokenizer(checkpoint.path), vision, EmbeddingTable(checkpoint))


def encode_all(
    encoder: SampleEncoder, samples: Sequence[Sample], progress: Progress, stage: str = STAGE
) -> Iterator[EncodedSample]:
    """Encodes samples one after the other; then the vision engines go, whose memory the decoder's layers need.

    Args:
        encoder: From `sample_encoder`.
        samples: In their order.
        progress: Called after every sample.
        stage: What it is told.
    """
    try:
        for number, sample in enumerate(samples):
            yield encoder.encode(sample)
            progress(stage, number + 1, len(samples))
    finally:
        encoder.release()


def prepare_packs(
    encoder: SampleEncoder,
    samples: Sequence[Sample],
    store: LayerStore,
    progress: Progress,
    max_tokens: int = PACK_TOKENS,
) -> list[Pack]:
    """The packs of a set; their embeddings become the first layer's input in `store`.

    What an earlier run has encoded is not encoded again.

    Args:
        encoder: From `sample_encoder`.
        samples: The set.
        store: Where the input is kept.
        progress: Called after every sample.
        max_tokens: Rows of a pack at most.

    Raises:
        InputError: A sample is unusable; the text names it.
        NumericError: A vision engine computed a NaN or an infinity.
        OSError: The files cannot be written.
    """
    description = store.directory / PACKS_FILE
    known = _read_packs(description)
    if known is not None:
        return known
    packs: list[Pack] = []
    path = store.activations_path(0)
    with path.open("wb") as stream:
        for pack, embeddings in pack_samples(encode_all(encoder, samples, progress), max_tokens):
            packs.append(pack)
            stream.write(embeddings.contiguous().numpy().tobytes())
    flush_file(path)
    temporary = description.with_suffix(".new")
    temporary.write_text(json.dumps([pack.describe() for pack in packs]), "utf-8")
    flush_file(temporary)
    temporary.replace(description)
    return packs


def _read_packs(path: Path) -> list[Pack] | None:
    try:
        return [Pack.from_description(description) for description in json.loads(path.read_text("utf-8"))]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
