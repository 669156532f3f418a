"""Encodes calibration samples with the vision components of a bundle that is being made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from valley2_edge.bundle import Bundle
from valley2_edge.calibration.encode import EncodedSample, SampleEncoder
from valley2_edge.calibration.samples import Sample
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.embedding_table import EmbeddingTable
from valley2_edge.export.control import Progress
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.vision.encoder import VisionEncoder

STAGE = "calibration pictures"


def sample_encoder(checkpoint: Checkpoint, bundle: Bundle) -> SampleEncoder:
    """Makes an encoder that uses the vision components of a bundle, finished or being made.

    Args:
        checkpoint: Where the tokenizer and the embedding table come from.
        bundle: The bundle, which must have its vision components already.
    """
    vision = VisionEncoder(bundle, threads=torch.get_num_threads(), keep=True)
    return SampleEncoder(checkpoint.config, Tokenizer(checkpoint.path), vision, EmbeddingTable(checkpoint))


def encode_all(
    encoder: SampleEncoder, samples: Sequence[Sample], progress: Progress, stage: str = STAGE
) -> Iterator[EncodedSample]:
    """Encodes samples one after the other, and then frees the vision engines: the decoder's layers need their memory.

    Args:
        encoder: The encoder that `sample_encoder` made.
        samples: The samples, in their order.
        progress: Called after every sample.
        stage: The name of the stage that `progress` is told.

    Yields:
        Each sample as rows of embeddings.
    """
    try:
        for number, sample in enumerate(samples):
            yield encoder.encode(sample)
            progress(stage, number + 1, len(samples))
    finally:
        encoder.release()
