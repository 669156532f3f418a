"""Turns a calibration set into the input of the decoder's first layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from valley2_edge.calibration.encode import SampleEncoder
from valley2_edge.calibration.packs import PACK_TOKENS, Pack, pack_samples
from valley2_edge.calibration.samples import Sample
from valley2_edge.export.control import Progress
from valley2_edge.export.rounding.layer_store import LayerStore, flush_file
from valley2_edge.export.vision.sample_encoder import encode_all

PACKS_FILE = "packs.json"


def prepare_packs(
    encoder: SampleEncoder,
    samples: Sequence[Sample],
    store: LayerStore,
    progress: Progress,
    max_tokens: int = PACK_TOKENS,
) -> list[Pack]:
    """Encodes and packs a calibration set, and writes its embeddings to `store` as the first layer's input.

    What an earlier run has encoded is not encoded again.

    Args:
        encoder: The encoder that `sample_encoder` made.
        samples: The samples of the set.
        store: The store that keeps the input.
        progress: Called after every sample.
        max_tokens: Largest number of rows of a pack; a longer sample is a pack of its own.

    Returns:
        The packs, without their embeddings.

    Raises:
        InputError: A sample is unusable; the message names it.
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
