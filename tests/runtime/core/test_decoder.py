"""The native decoder computes what transformers' Qwen2 computes, in the same bits however the work is split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from decoder_files import TinyConfig, random_weights, write_decoder
from safetensors.numpy import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from valley2_edge.errors import BundleError, InputError
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason

pytestmark = pytest.mark.slow

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CONFIG = TinyConfig()
PRECISIONS = ("fp32", "fp16", "int8", "int4", "int4-asymmetric", "nf4")
ISAS = [name for name in ISA_NUMBERS if name != "auto" and isa_available(name)]
PROMPT = np.random.default_rng(7).integers(0, CONFIG.vocab_size, 90).astype(np.int32)
STEPS = (5, 330, 0, 41)


def reference_model(weights: dict[str, Array], config: Any = CONFIG) -> Qwen2ForCausalLM:
    """transformers' decoder in float32 on exactly these weights."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("vocab_size", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    model = Qwen2ForCausalLM(Qwen2Config(**{name: getattr(config, name) for name in names}, rope_parameters=rope))
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()})
    return model.float().eval()


def reference_logits(model: Qwen2ForCausalLM, embeddings: Array) -> Array:
    """Logits of all positions, (n, vocabulary), from embeddings (n, hidden)."""
    with torch.no_grad():
        return np.asarray(model(inputs_embeds=torch.from_numpy(embeddings)[None]).logits[0])


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """The directory of each precision, and the reference model of the weights in it."""
    weights = random_weights(CONFIG)
    made = {}
    for precision in PRECISIONS:
        directory = tmp_path_factory.mktemp(precision)
        kind, _, asymmetric = precision.partition("-")
        exact = write_decoder(directory, CONFIG, weights, kind, symmetric=not asymmetric)
        made[precision] = SimpleNamespace(directory=directory, reference=reference_model(exact))
    return made


@pytest.fixture(scope="module")
def decoder(bundles: dict[str, SimpleNamespace]) -> Iterator[Decoder]:
    with Decoder(bundles["fp32"].directory, threads=2) as opened:
        yield opened


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_equal_the_reference(bundles: dict[str, SimpleNamespace], precision: str, isa: str) -> None:
    bundle = bundles[precision]
    with (
        Decoder(bundle.directory, threads=2, isa=isa, activations="int16") as decoder,
        decoder.session(kv_precision="fp32", prefill_chunk=32) as session,
    ):
        expected = reference_logits(bundle.reference, decoder.embed([*PROMPT, *STEPS]))
        session.prefill([PROMPT], logit_rows=len(PROMPT))
        rows = [*session.logits(len(PROMPT))]
        for token in STEPS:
            session.prefill([np.array([token], np.int32)])
            rows.append(session.logits()[0])
        actual = np.stack(rows)
    if precision in ("fp32", "fp16"):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-4)
    else:
        assert relative_error(actual, expected) < 2e-3


@pytest.mark.parametrize("precision", ["int8", "int4", "nf4"])
def test_int8_activations_stay_near_the_reference(bundles: dict[str, SimpleNamespace], precision: str) -> None:
    bundle = bundles[precision]
    with Decoder(bundle.directory, threads=1) as decoder, decoder.session() as session:
        session.prefill([PROMPT], logit_rows=len(PROMPT))
        expected = reference_logits(bundle.reference, decoder.embed(PROMPT))
        error = relative_error(session.logits(len(PROMPT)), expected)
    assert 1e-5 < error < 0.05


def test_fp16_cache_stays_near_the_reference(decoder: Decoder, bundles: dict[str, SimpleNamespace]) -> None:
    expected = reference_logits(bundles["fp32"].reference, decoder.embed(PROMPT))
    with decoder.session(kv_precision="fp16") as session:
        session.prefill([PROMPT], logit_rows=len(PROMPT))
        error = relative_error(session.logits(len(PROMPT)), expected)
    assert 1e-6 < error < 2e-3


def test_tokens_and_embeddings_mix(decoder: Decoder, bundles: dict[str, SimpleNamespace]) -> None:
    picture = np.random.default_rng(1).standard_normal((70, CONFIG.hidden_size)).astype(np.float32)
    nothing = np.empty((0, CONFIG.hidden_size), np.float32)
    segments = [PROMPT[:20], picture, nothing, PROMPT[20:23], picture[:1], PROMPT[23:]]
    rows = [decoder.embed(segment) if segment.ndim == 1 else segment for segment in segments]
    expected = reference_logits(bundles["fp32"].reference, np.concatenate(rows))
    with decoder.session(prefill_chunk=16) as session:
        session.prefill(segments, logit_rows=len(expected))
        np.testing.assert_allclose(session.logits(len(expected)), expected, rtol=0, atol=5e-4)


def test_greedy_tokens_equal_the_reference(decoder: Decoder, bundles: dict[str, SimpleNamespace]) -> None:
    model = bundles["fp32"].reference
    expected = list(PROMPT)
    for _ in range(12):
        logits = reference_logits(model, decoder.embed(expected))
        expected.append(int(logits[-1].argmax()))
    tokens: list[int] = []
    with decoder.session() as session:
        session.prefill([PROMPT])
        assert session.generate(GenerateOptions(max_new_tokens=12), tokens.append) is StopReason.LENGTH
        assert session.length == len(PROMPT) + 12
    assert tokens == expected[len(PROMPT) :]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "int4-asymmetric", "nf4"])
def test_threads_and_chunks_leave_every_bit(bundles: dict[str, SimpleNamespace], precision: str, isa: str) -> None:
    prompt = np.tile(PROMPT, 4)[:300]  # crosses a page of the KV cache
    seen = set()
    for threads, chunk in ((1, 256), (2, 7), (3, 1), (3, 300), (8, 64)):
        with (
            Decoder(bundles[precision].directory, threads=threads, isa=isa) as decoder,
            decoder.session(kv_precision="fp16", prefill_chunk=chunk) as session,
        ):
            session.prefill([prompt[:299]], logit_rows=299)
            rows = session.logits(299).tobytes()
            session.prefill([prompt[299:]])
            seen.add(rows + session.logits().tobytes())
    assert len(seen) == 1


def test_a_step_equals_a_longer_prefill(decoder: Decoder) -> None:
    with decoder.session() as stepped, decoder.session() as whole:
        whole.prefill([PROMPT])
        stepped.prefill([PROMPT[:-1]])
        stepped.prefill([PROMPT[-1:]])
        np.testing.assert_array_equal(stepped.logits(), whole.logits())


def test_truncated_session_goes_on_as_if_new(decoder: Decoder) -> None:
    with decoder.session() as used, decoder.session() as fresh:
        used.prefill([np.tile(PROMPT, 6)])
        assert used.kv_bytes == 3 * fresh_page_bytes(fresh)
        used.truncate(40)
        assert used.length == 40
        assert used.kv_bytes == fresh_page_bytes(fresh)
        with pytest.raises(InputError, match="prefill"):
            used.generate(GenerateOptions(max_new_tokens=1))
        used.prefill([PROMPT[50:]])
        fresh.prefill([PROMPT[:40], PROMPT[50:]])
        np.testing.assert_array_equal(used.logits(), fresh.logits())


def fresh_page_bytes(session: Any) -> int:
    """Bytes of the keys and values of 256 positions in fp32."""
    return CONFIG.num_hidden_layers * CONFIG.num_key_value_heads * CONFIG.head_size * 2 * 256 * 4


def test_description_counts_every_weight(decoder: Decoder, bundles: dict[str, SimpleNamespace]) -> None:
    description = decoder.description
    assert (description.hidden_size, description.layers, description.kv_heads) == (192, 3, 2)
    assert description.threads == 2
    files = [bundles["fp32"].directory / f"{name}.safetensors" for name in ("decoder", "embeddings")]
    assert description.mapped_bytes == sum(file.stat().st_size for file in files)
    header = int.from_bytes(files[0].read_bytes()[:8], "little") + 8
    assert description.weight_bytes == pytest.approx(files[0].stat().st_size - header, rel=0.01)


def test_embeddings_are_exact(decoder: Decoder) -> None:
    table = random_weights(CONFIG)["model.embed_tokens.weight"]
    np.testing.assert_array_equal(decoder.embed([0, 330, 7]), table[[0, 330, 7]])
    with pytest.raises(InputError, match="331"):
        decoder.embed([331])


def test_missing_instruction_set_is_refused(bundles: dict[str, SimpleNamespace]) -> None:
    absent = [name for name in ISA_NUMBERS if name != "auto" and not isa_available(name)]
    assert absent, "no machine has all of them"
    with pytest.raises(InputError, match=absent[0]):
        Decoder(bundles["fp32"].directory, isa=absent[0])


def test_unknown_tensor_is_refused(tmp_path: Path) -> None:
    def damage(tensors: dict[str, Array]) -> None:
        tensors["layers.0.secret"] = np.zeros(16, np.float32)

    write_decoder(tmp_path, CONFIG, random_weights(CONFIG), damage=damage)
    with pytest.raises(BundleError, match=r"layers\.0\.secret"):
        Decoder(tmp_path)


def test_unknown_code_is_refused(tmp_path: Path) -> None:
    write_decoder(tmp_path, CONFIG, random_weights(CONFIG), "nf4")
    path = tmp_path / "decoder.safetensors"
    path.write_bytes(path.read_bytes().replace(rb"\"nf4\"", rb"\"fp4\""))
    with pytest.raises(BundleError, match=r"layers\.0\.attention\.qkv' has an unknown code"):
        Decoder(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_golden_text_only_decoder(tmp_path: Path, isa: str) -> None:
    checkpoint = GOLDEN / "ckpt" / "eagle_ovis"
    weights: dict[str, Array] = {}
    for shard in checkpoint.glob("*.safetensors"):
        weights |= load_bf16(shard)
    given = json.loads((checkpoint / "config.json").read_text())
    config = TinyConfig(**{name: given[name] for name in TinyConfig.__dataclass_fields__})
    write_decoder(tmp_path, config, weights)
    golden = load_file(GOLDEN / "fwd" / "eagle_ovis" / "llm_only.safetensors")
    tokens: list[int] = []
    with Decoder(tmp_path, isa=isa) as decoder, decoder.session() as session:
        prompt = golden["input_ids"]
        session.prefill([prompt], logit_rows=len(prompt))
        np.testing.assert_allclose(session.logits(len(prompt)), golden["logits_all"], rtol=0, atol=5e-4)
        session.generate(GenerateOptions(max_new_tokens=16), tokens.append)
    assert tokens == golden["greedy_tokens"].tolist()


def load_bf16(shard: Path) -> dict[str, Array]:
    """The decoder's tensors of a shard in float32."""
    from safetensors.torch import load_file as load_torch

    decoder_names = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
    return {
        name: tensor.float().numpy() for name, tensor in load_torch(shard).items() if name.startswith(decoder_names)
    }
