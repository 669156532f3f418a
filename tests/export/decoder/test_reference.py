"""The streamed reference decoder equals the original model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from valley2_edge.errors import NumericError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.decoder.reference import reference_logits
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder.writer import export_decoder, export_embeddings

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredDecoder:
    directory = tmp_path_factory.mktemp("bundle")
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as checkpoint:
        export_decoder(checkpoint, checkpoint.config.decoder, directory, decoder_formats("fp32"))
        export_embeddings(checkpoint, checkpoint.config.decoder, directory)
    return StoredDecoder(directory)


def test_fp32_logits_equal_the_original_models(stored: StoredDecoder) -> None:
    golden = load_file(GOLDEN / "fwd" / "eagle_ovis" / "llm_only.safetensors")
    tokens = golden["input_ids"].reshape(-1).tolist()
    expected = golden["logits_all"].reshape(len(tokens), -1)
    logits = reference_logits(stored, stored.embed(tokens), len(tokens))
    assert (logits - expected).abs().max() < 5e-5
    last = reference_logits(stored, stored.embed(tokens), 3)
    assert torch.equal(last, logits[-3:]) or (last - logits[-3:]).abs().max() < 1e-5


def test_a_layer_that_overflows_is_named(stored: StoredDecoder) -> None:
    embeddings = torch.full((2, 256), float("nan"))
    with pytest.raises(NumericError, match="layer 0"):
        reference_logits(stored, embeddings, 1)
