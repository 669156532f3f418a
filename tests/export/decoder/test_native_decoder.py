"""An exported decoder computes in the native core what torch computes from the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.decoder.reference import reference_logits
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder.writer import export_decoder, export_embeddings
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.runtime.core.decoder import Decoder

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"


def _export(directory: Path, precision: DecoderPrecision, **options: Any) -> Path:
    with Checkpoint.open(GOLDEN / "ckpt" / "eagle_ovis") as checkpoint:
        config = checkpoint.config.decoder
        export_decoder(checkpoint, config, directory, decoder_formats(precision, **options))
        export_embeddings(checkpoint, config, directory)
    return directory


def _native_logits(directory: Path, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    with (
        Decoder(directory / "decoder", activations="int16") as decoder,
        decoder.session(kv_precision="fp32") as session,
    ):
        session.prefill([tokens], logit_rows=len(tokens))
        return session.logits(len(tokens))


def test_fp32_logits_equal_the_original_models(tmp_path: Path) -> None:
    golden = load_file(GOLDEN / "fwd" / "eagle_ovis" / "llm_only.safetensors")
    logits = _native_logits(_export(tmp_path, "fp32"), golden["input_ids"].astype(np.int32))
    assert np.abs(logits - golden["logits_all"]).max() < 5e-4


@pytest.mark.parametrize(
    ("precision", "options", "tolerance"),
    [
        ("fp16", {}, 1e-5),
        ("int8", {}, 1e-3),
        ("int4", {}, 1e-3),
        ("int4", {"group_size": 32}, 1e-3),
        ("int4", {"group_size": 64, "symmetric": True}, 1e-3),
        ("int4", {"lm_head_precision": "int4"}, 1e-3),
        ("int4", {"code": "nf4"}, 1e-3),
        ("int4", {"code": "nf4", "group_size": 32, "lm_head_precision": "int4"}, 1e-3),
    ],
)
def test_native_logits_equal_torch_on_the_dequantised_weights(
    tmp_path: Path, precision: DecoderPrecision, options: dict[str, Any], tolerance: float
) -> None:
    tokens = np.arange(5, 30, dtype=np.int32)
    directory = _export(tmp_path, precision, **options)
    stored = StoredDecoder(directory)
    expected = reference_logits(stored, stored.embed(tokens.tolist()), len(tokens)).numpy()
    difference = _native_logits(directory, tokens) - expected
    assert np.linalg.norm(difference) / np.linalg.norm(expected) < tolerance
