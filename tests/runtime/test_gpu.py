"""The decoder on a real GPU against the CPU; skipped where there is none (docs/gpu.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.bundle import open_bundle
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.verify.run import self_test

pytestmark = pytest.mark.gpu

SHAPES = {
    "odd": TinyConfig(),
    "heads of 64": TinyConfig(hidden_size=256, num_attention_heads=4, num_key_value_heads=2),
    "heads of 128": TinyConfig(hidden_size=1024, num_attention_heads=8, num_key_value_heads=1, intermediate_size=2048),
}
PROMPT = np.random.default_rng(7).integers(0, 331, 300).astype(np.int32)


@pytest.fixture(scope="module", autouse=True)
def _device(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("probe")
    write_decoder(directory, TinyConfig(), random_weights(TinyConfig()))
    with Decoder(directory, device="auto") as decoder:
        if decoder.description.device == "cpu":
            pytest.skip(decoder.description.device_reason)


@pytest.mark.parametrize("kv_precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "int4-asymmetric", "nf4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_tokens_equal_the_cpus(tmp_path: Path, shape: str, precision: str, kv_precision: str) -> None:
    config = SHAPES[shape]
    kind, _, asymmetric = precision.partition("-")
    write_decoder(tmp_path, config, random_weights(config), kind, symmetric=not asymmetric)
    rows, tokens = [], []
    for device in ("cpu", "cuda"):
        with (
            Decoder(tmp_path, activations="int16", device=device) as decoder,
            decoder.session(kv_precision=kv_precision, prefill_chunk=100) as session,
        ):
            chosen: list[int] = []
            session.prefill([PROMPT], logit_rows=200)
            rows.append(session.logits(200))
            session.generate(GenerateOptions(max_new_tokens=30), chosen.append)
            rows.append(session.logits())
            tokens.append(chosen)
    assert tokens[0] == tokens[1]
    for expected, actual in ((rows[0], rows[2]), (rows[1], rows[3])):
        assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 2e-3


def test_golden_outputs_come_out_of_the_gpu(fp32_bundle: Path) -> None:
    assert all(row.passed for row in self_test(open_bundle(fp32_bundle), LoadOptions(device="cuda")))
