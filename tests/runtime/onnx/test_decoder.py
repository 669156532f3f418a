"""The ONNX decoder answers as the native one does, and keeps the same promises."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from valley2_edge import Valley2
from valley2_edge.bundle import open_bundle
from valley2_edge.errors import BudgetError, Cancelled, InputError, Valley2Error, Valley2Warning
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason
from valley2_edge.runtime.onnx.decoder import OnnxDecoderBackend
from valley2_edge.runtime.onnx.providers import decoder_providers

pytestmark = pytest.mark.slow

TOKENS = np.arange(7, 60, dtype=np.int32)
EMBEDDINGS = np.random.default_rng(3).standard_normal((9, 256), np.float32)


def open_decoder(bundle: Path, **options: Any) -> Decoder:
    """The decoder of a bundle in ONNX Runtime; the options are fields of LoadOptions."""
    return Decoder(bundle / "decoder", backend=OnnxDecoderBackend(open_bundle(bundle), **options))


@pytest.fixture(scope="module")
def decoder(onnx_bundle: Path) -> Iterator[Decoder]:
    with open_decoder(onnx_bundle, activations="int16", threads=2) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def native(int4_bundle: Path) -> Iterator[Valley2]:
    with Valley2.load(int4_bundle, activations="int16") as model:
        yield model


def answer(decoder: Decoder, options: GenerateOptions) -> list[int]:
    tokens: list[int] = []
    with decoder.session(kv_precision=decoder.finest_kv_precision) as session:
        session.prefill([TOKENS[:20], EMBEDDINGS, TOKENS[20:]])
        session.generate(options, tokens.append)
    return tokens


@pytest.mark.parametrize(
    "options",
    [
        GenerateOptions(max_new_tokens=24),
        GenerateOptions(max_new_tokens=24, repetition_penalty=1.1),
        GenerateOptions(max_new_tokens=24, temperature=0.9, top_k=40, top_p=0.9, seed=11),
        GenerateOptions(max_new_tokens=24, temperature=1.3, min_p=0.02, repetition_penalty=1.1, seed=2),
        GenerateOptions(max_new_tokens=24, speculation="always"),
    ],
    ids=["greedy", "penalty", "top-k and top-p", "min-p", "drafts"],
)
def test_answers_are_the_native_ones(decoder: Decoder, native: Valley2, options: GenerateOptions) -> None:
    assert answer(decoder, options) == answer(native.engines.decoder, options)


def test_embeddings_are_the_native_ones(decoder: Decoder, native: Valley2) -> None:
    assert np.array_equal(decoder.embed(TOKENS), native.engines.decoder.embed(TOKENS))
    with pytest.raises(InputError, match="outside the vocabulary"):
        decoder.embed([679])


def test_drafts_make_fewer_steps_of_the_same_answer(decoder: Decoder) -> None:
    answers, steps = [], []
    for speculation in ("off", "always"):
        tokens: list[int] = []
        with decoder.session() as session:
            session.prefill([np.tile(TOKENS[:6], 10)])
            session.generate(GenerateOptions(max_new_tokens=40, speculation=speculation), tokens.append)
            steps.append(session.counters.steps)
        answers.append(tokens)
    assert answers[0] == answers[1] and steps[1] < steps[0] == 40


def test_prefill_in_chunks_gives_the_logits_of_one_piece(decoder: Decoder) -> None:
    with decoder.session() as whole, decoder.session(prefill_chunk=7) as pieces:
        seen: list[tuple[int, int]] = []
        whole.prefill([TOKENS], logit_rows=20)
        pieces.prefill([TOKENS], logit_rows=20, on_progress=lambda done, total: seen.append((done, total)))
        assert seen == [*((done, 53) for done in range(7, 53, 7)), (53, 53)]
        assert np.abs(whole.logits(20) - pieces.logits(20)).max() < 1e-4


def test_truncated_session_goes_on_as_a_new_one(decoder: Decoder) -> None:
    with decoder.session() as long, decoder.session() as short:
        long.prefill([TOKENS])
        long.truncate(30)
        with pytest.raises(InputError, match="no logits"):
            long.generate(GenerateOptions(max_new_tokens=1))
        for session in (long, short):
            session.prefill([TOKENS[: 30 - session.length], EMBEDDINGS] if session.length == 0 else [EMBEDDINGS])
        assert np.abs(long.logits() - short.logits()).max() < 1e-4


def test_cache_grows_with_the_positions_up_to_the_context(decoder: Decoder) -> None:
    ids = np.resize(TOKENS, 600)
    with decoder.session(context_length=640) as session, decoder.session() as other:
        session.prefill([ids[:200]])
        before = session.kv_bytes
        session.prefill([ids[200:]])
        assert before < session.kv_bytes == before * 3
        other.prefill([ids])
        assert np.abs(session.logits() - other.logits()).max() < 1e-4
        assert session.generate(GenerateOptions()) == StopReason.CONTEXT
        assert session.length == 640 and session.kv_bytes == before * 640 // 200
        with pytest.raises(BudgetError, match="the context holds 640"):
            session.prefill([TOKENS])


def test_stop_token_is_neither_reported_nor_decoded(decoder: Decoder) -> None:
    first, second = answer(decoder, GenerateOptions(max_new_tokens=2))
    assert answer(decoder, GenerateOptions(max_new_tokens=9, stop_tokens=(second,))) == [first]


def test_cancelled_prefill_leaves_the_session_as_it_was(decoder: Decoder) -> None:
    with decoder.session(prefill_chunk=8) as session:
        session.prefill([TOKENS[:10]])
        before = session.logits()
        with pytest.raises(Cancelled):
            session.prefill([TOKENS], on_progress=lambda done, total: done < 16)
        assert session.length == 10 and np.array_equal(session.logits(), before)
        session.cancel()
        with pytest.raises(Cancelled):
            session.prefill([TOKENS])
        session.resume()
        session.prefill([TOKENS])
        assert session.length == 10 + len(TOKENS)


def test_cancel_from_another_thread_ends_an_endless_answer_that_can_go_on(decoder: Decoder) -> None:
    seen: list[int] = []
    with decoder.session() as session:
        session.prefill([TOKENS])
        started = threading.Event()

        def on_token(token: int) -> None:
            seen.append(token)
            started.set()

        def cancel() -> None:
            started.wait(30)
            session.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        with pytest.raises(Cancelled):
            session.generate(GenerateOptions(), on_token)
        other.join()
        assert session.length == len(TOKENS) + len(seen)
        session.resume()
        session.generate(GenerateOptions(max_new_tokens=3), seen.append)
    with decoder.session() as whole:
        whole.prefill([TOKENS])
        expected: list[int] = []
        whole.generate(GenerateOptions(max_new_tokens=len(seen)), expected.append)
    assert seen == expected


def test_cancelled_step_is_decoded_by_the_next_call(decoder: Decoder) -> None:
    with decoder.session() as session, decoder.session() as other:
        session.prefill([TOKENS])
        seen: list[int] = []

        def stop(token: int) -> None:
            seen.append(token)
            session.cancel()

        with pytest.raises(Cancelled):
            session.generate(GenerateOptions(max_new_tokens=4), stop)
        assert session.length == len(TOKENS) + 1
        session.resume()
        session.prefill([TOKENS[:5]])
        other.prefill([np.concatenate([TOKENS, np.array(seen, np.int32), TOKENS[:5]])])
        assert np.abs(session.logits() - other.logits()).max() < 1e-4


def test_closed_decoder_lives_until_its_last_session_is_closed(onnx_bundle: Path) -> None:
    decoder = open_decoder(onnx_bundle)
    session = decoder.session()
    decoder.close()
    session.close()
    with pytest.raises(Valley2Error, match="closed"):
        session.prefill([TOKENS])


def test_unusable_options_are_refused_in_words(decoder: Decoder, onnx_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"ONNX Runtime \(CPUExecutionProvider, fp32\) keeps keys and values"):
        decoder.session(kv_precision="int8")
    with pytest.raises(InputError, match="trained for 32768"):
        decoder.session(context_length=40_000)
    with pytest.raises(InputError, match="isa is 'avx2'"):
        Valley2.load(onnx_bundle, isa="avx2")
    with pytest.raises(InputError, match="device is 'cuda'"):
        Valley2.load(onnx_bundle, device="cuda")
    with pytest.raises(InputError, match="providers must be among"):
        Valley2.load(onnx_bundle, providers=["NoSuchProvider"])


def test_int8_activations_choose_the_rounded_graphs(onnx_bundle: Path) -> None:
    with open_decoder(onnx_bundle) as decoder:
        assert decoder.description.isa == "ONNX Runtime (CPUExecutionProvider, int8)"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_accelerator_that_gives_nothing_is_left_with_one_sentence(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime lists what it was built with; what a session really got decides.
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.warns(Valley2Warning, match=r"runs on CPUExecutionProvider: CUDAExecutionProvider could not be used"):
        backend = OnnxDecoderBackend(open_bundle(onnx_bundle))
    assert (backend.name, backend.device) == ("ONNX Runtime (CPUExecutionProvider, int8)", "cpu")


def test_half_precision_graphs_run_the_whole_session(
    onnx_bundle: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an accelerator would run, on the processor: a provider that only calls itself something else."""
    real = onnxruntime.InferenceSession

    class Renamed(real):  # type: ignore[misc, valid-type]
        def get_providers(self) -> list[str]:
            return ["DmlExecutionProvider"] if self.asked[0] != "CPUExecutionProvider" else ["CPUExecutionProvider"]

        def __init__(self, path: str, options: Any, providers: list[tuple[str, Any]], **more: Any) -> None:
            self.asked = [name for name, _ in providers]
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", Renamed)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["DmlExecutionProvider", "CPUExecutionProvider"]
    )
    options = GenerateOptions(max_new_tokens=6)
    with (
        warnings.catch_warnings(),
        open_decoder(onnx_bundle, providers=["DmlExecutionProvider"]) as half,
    ):
        warnings.simplefilter("error")
        assert half.description.isa == "ONNX Runtime (DmlExecutionProvider, fp16)"
        tokens: list[int] = []
        with half.session() as session:
            session.prefill([TOKENS[:20], EMBEDDINGS, TOKENS[20:]])
            session.generate(options, tokens.append)
            assert session.kv_bytes == 2 * 2 * 2 * session.length * 32 * 2
    assert tokens == answer(decoder, options)


def test_chat_keeps_pictures_and_turns_in_the_context(onnx_bundle: Path, int4_bundle: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    answers = []
    for bundle in (onnx_bundle, int4_bundle):
        with Valley2.load(bundle, activations="int16", threads=2) as model:
            finest = model.engines.decoder.finest_kv_precision
            chat = model.session(kv_precision=finest)
            first = "".join(chat.ask("What is this?", images=[picture], max_new_tokens=8))
            second = "".join(chat.ask("And now?", max_new_tokens=8, temperature=0.8, seed=4))
            answers.append((first, second, chat.context_used))
    assert answers[0] == answers[1]


def test_sessions_are_not_saved_in_a_form_that_nobody_reads(onnx_bundle: Path, tmp_path: Path) -> None:
    with Valley2.load(onnx_bundle) as model:
        session = model.session()
        with pytest.raises(InputError, match="can be neither saved nor loaded"):
            session.save(tmp_path / "saved")
        with pytest.raises(InputError, match="can be neither saved nor loaded"):
            model.resume(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("device", "providers", "expected"),
    [
        (None, None, [CUDA, CPU]),
        ("auto", None, [CUDA, CPU]),
        ("cuda", None, [CUDA, CPU]),
        ("cpu", None, [CPU]),
        (None, [CPU], [CPU]),
        ("cpu", [CPU, CUDA], [CPU]),
        ("cuda", [CUDA], [CUDA]),
        (
            "cuda",
            ["TensorrtExecutionProvider", CUDA],
            "TensorrtExecutionProvider is not supported: take --vision-engine",
        ),
        (None, [CPU, "NvTensorRTRTXExecutionProvider"], "NvTensorRTRTXExecutionProvider is not supported"),
        ("auto", ["DmlExecutionProvider"], ["DmlExecutionProvider"]),
        (None, ["WebGpuExecutionProvider"], "WebGpuExecutionProvider computes wrong answers with a decoder"),
        ("auto", [CUDA, "WebGpuExecutionProvider", CPU], "computes wrong answers with a decoder"),
        ("cpu", [CPU, "WebGpuExecutionProvider"], [CPU]),
        ("cpu", [CUDA, CPU], "device cpu and provider CUDAExecutionProvider contradict"),
        ("cuda", [CPU], "device cuda and provider CPUExecutionProvider contradict"),
        ("cuda", ["DmlExecutionProvider"], "contradict"),
        ("gpu", None, "must be one of auto, cpu, cuda"),
    ],
)
def test_device_and_providers_are_one_vocabulary(
    monkeypatch: pytest.MonkeyPatch, device: str | None, providers: list[str] | None, expected: list[str] | str
) -> None:
    offered = ["TensorrtExecutionProvider", CUDA, "WebGpuExecutionProvider", "DmlExecutionProvider", CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    if isinstance(expected, list):
        assert decoder_providers(device, providers) == expected
    else:
        with pytest.raises(InputError, match=expected):
            decoder_providers(device, providers)


def test_device_that_is_not_there_is_refused_or_said(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession
    with Valley2.load(onnx_bundle, device="auto") as model:
        about = model.engines.decoder.description
        assert (about.device, about.device_reason) == ("cpu", "ONNX Runtime offers no GPU here")
    with pytest.raises(InputError, match="has no CUDAExecutionProvider"):
        Valley2.load(onnx_bundle, device="cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers, **more: real(path, options, providers=[CPU])
    )
    with (
        pytest.warns(Valley2Warning, match="CUDAExecutionProvider could not be used"),
        pytest.raises(InputError, match="could not use CUDAExecutionProvider"),
    ):
        Valley2.load(onnx_bundle, device="cuda")
    for option in ("gpu_layers", "gpu_memory"):
        with pytest.raises(InputError, match=f"{option} is of the native decoder"):
            Valley2.load(onnx_bundle, **{option: 5})
