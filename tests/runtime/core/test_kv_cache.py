"""The KV cache in each precision: near the reference, the same bits however the work is split, memory by use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import BudgetError, InputError
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason

Array = npt.NDArray[Any]
CONFIG = TinyConfig(max_position_embeddings=4096)
LONG = TinyConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=64,
    max_position_embeddings=32768,
)
ISAS = [name for name in ISA_NUMBERS if name != "auto" and isa_available(name)]
KV_PRECISIONS = ("fp32", "fp16", "int8")
PAGE = 256
PROMPT = np.random.default_rng(3).integers(0, CONFIG.vocab_size, 800).astype(np.int32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("decoder")
    write_decoder(made, CONFIG, random_weights(CONFIG))
    return made


@pytest.fixture(scope="module")
def decoder(directory: Path) -> Iterator[Decoder]:
    with Decoder(directory, threads=2) as opened:
        yield opened


def last_logits(decoder: Decoder, kv_precision: str, prompt: Array) -> Array:
    with decoder.session(kv_precision=kv_precision) as session:
        session.prefill([prompt])
        return session.logits()


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def reference_logits(weights: dict[str, Array], config: TinyConfig, tokens: Array) -> Array:
    """Logits of the last position of a decoder of one layer, in float64 apart from the angles."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    layer, size, half = "model.layers.0.", config.head_size, config.head_size // 2

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * w[name]

    def project(x: Array, name: str) -> Array:
        return x @ w[f"{layer}self_attn.{name}_proj.weight"].T + w[f"{layer}self_attn.{name}_proj.bias"]

    def rotate(heads: Array, angles: Array) -> Array:
        first, second = heads[..., :half], heads[..., half:]
        cosine, sine = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)

    hidden = w["model.embed_tokens.weight"][tokens]  # (T, hidden)
    normed = norm(hidden, layer + "input_layernorm.weight")
    frequencies = 1 / config.rope_theta ** (np.arange(half) / half)
    angles = (np.arange(len(tokens), dtype=np.float32)[:, None] * frequencies.astype(np.float32)).astype(np.float64)
    keys = rotate(project(normed, "k"), angles)  # (T, head_size): one kv head
    queries = rotate(project(normed[-1], "q").reshape(-1, size), angles[-1])  # (heads, head_size)
    scores = queries @ keys.T / np.sqrt(size)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    attended = shares / shares.sum(-1, keepdims=True) @ project(normed, "v")
    x = hidden[-1] + w[layer + "self_attn.o_proj.weight"] @ attended.reshape(-1)
    middle = norm(x, layer + "post_attention_layernorm.weight")
    gate = w[layer + "mlp.gate_proj.weight"] @ middle
    up = w[layer + "mlp.up_proj.weight"] @ middle
    x = x + w[layer + "mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    return w["lm_head.weight"] @ norm(x, "model.norm.weight")


@pytest.mark.parametrize(("kv_precision", "bound"), [("fp16", 2e-3), ("int8", 3e-2)])
def test_error_of_a_rounded_cache_is_small(decoder: Decoder, kv_precision: str, bound: float) -> None:
    exact = last_logits(decoder, "fp32", PROMPT)
    assert 1e-6 < relative_error(last_logits(decoder, kv_precision, PROMPT), exact) < bound


@pytest.mark.slow
@pytest.mark.parametrize("kv_precision", KV_PRECISIONS)
@pytest.mark.parametrize("isa", ISAS)
def test_threads_and_chunks_leave_every_bit(directory: Path, isa: str, kv_precision: str) -> None:
    seen = set()
    for threads, chunk in ((1, 256), (2, 500), (3, 33), (5, 800)):  # from two on, keys are split among threads
        with (
            Decoder(directory, threads=threads, isa=isa) as decoder,
            decoder.session(kv_precision=kv_precision, prefill_chunk=chunk) as session,
        ):
            session.prefill([PROMPT[:790]], logit_rows=2)
            bits = session.logits(2).tobytes()
            session.prefill([PROMPT[790:796]], logit_rows=6)  # a step of several positions
            bits += session.logits(6).tobytes()
            for token in PROMPT[796:]:
                session.prefill([token[None]])
                bits += session.logits().tobytes()
            seen.add(bits)
    assert len(seen) == 1


@pytest.mark.parametrize("kv_precision", KV_PRECISIONS)
@pytest.mark.parametrize("kept", [1, 300, 512, 600])
def test_rollback_leaves_no_trace(decoder: Decoder, kept: int, kv_precision: str) -> None:
    with decoder.session(kv_precision=kv_precision) as used, decoder.session(kv_precision=kv_precision) as fresh:
        used.prefill([PROMPT])
        used.truncate(kept)
        for session in (used, fresh):
            session.prefill([PROMPT[:kept]] if session is fresh else [PROMPT[-40:]])
        fresh.prefill([PROMPT[-40:]])
        np.testing.assert_array_equal(used.logits(), fresh.logits())
        assert used.kv_bytes == fresh.kv_bytes


@pytest.mark.parametrize(("kv_precision", "head_bytes"), [("fp32", 4 * 32), ("fp16", 2 * 32), ("int8", 32 + 4)])
def test_memory_grows_with_use(decoder: Decoder, kv_precision: str, head_bytes: int) -> None:
    page = CONFIG.num_hidden_layers * CONFIG.num_key_value_heads * 2 * head_bytes * PAGE
    with decoder.session(kv_precision=kv_precision) as session:
        assert session.kv_bytes == 0
        for length in (1, PAGE, PAGE + 1, 3 * PAGE):
            session.prefill([PROMPT[session.length : length]])
            assert session.kv_bytes == -(-length // PAGE) * page
        session.generate(GenerateOptions(max_new_tokens=1))
        assert session.kv_bytes == 4 * page
        session.truncate(5)
        assert session.kv_bytes == page


@pytest.mark.parametrize(("kv_precision", "bound"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 3e-2)])
def test_context_of_32768_positions(tmp_path: Path, kv_precision: str, bound: float) -> None:
    weights = random_weights(LONG)
    write_decoder(tmp_path, LONG, weights)
    tokens = np.random.default_rng(4).integers(0, LONG.vocab_size, 32768).astype(np.int32)
    with Decoder(tmp_path, threads=3) as decoder, decoder.session(kv_precision=kv_precision) as session:
        session.prefill([tokens[:-1]])
        session.prefill([tokens[-1:]])
        assert session.length == 32768
        assert relative_error(session.logits()[0], reference_logits(weights, LONG, tokens)) < bound
        assert session.generate(GenerateOptions(max_new_tokens=1)) is StopReason.CONTEXT
        with pytest.raises(BudgetError, match="context holds 32768"):
            session.prefill([tokens[:1]])


def test_unknown_precision_is_refused(decoder: Decoder) -> None:
    with pytest.raises(InputError, match="kv_precision is 'int4'; it must be one of auto, fp32, fp16, int8"):
        decoder.session(kv_precision="int4")
