"""A decoder session survives cancellation, failure and company."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _cffi_backend
import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import BudgetError, Cancelled, InputError, NumericError, Valley2Error
from valley2_edge.runtime.core import library as native
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import new_struct
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason

Array = npt.NDArray[Any]
CONFIG = TinyConfig()
PROMPT = np.random.default_rng(7).integers(0, CONFIG.vocab_size, 90).astype(np.int32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder")
    write_decoder(path, CONFIG, random_weights(CONFIG))
    return path


@pytest.fixture
def decoder(directory: Path) -> Iterator[Decoder]:
    with Decoder(directory, threads=2) as opened:
        yield opened


@pytest.fixture
def session(decoder: Decoder) -> Iterator[DecoderSession]:
    with decoder.session(prefill_chunk=4) as opened:
        yield opened


def greedy(session: DecoderSession, count: int = 8) -> list[int]:
    tokens: list[int] = []
    session.generate(GenerateOptions(max_new_tokens=count), tokens.append)
    return tokens


def answer_of_a_fresh_session(decoder: Decoder, *prompts: Array) -> list[int]:
    with decoder.session() as fresh:
        for prompt in prompts:
            fresh.prefill([prompt])
        return greedy(fresh)


def test_progress_counts_positions(session: DecoderSession) -> None:
    seen: list[tuple[int, int]] = []
    session.prefill([PROMPT[:10]], on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_cancelled_prefill_leaves_the_session_as_it_was(decoder: Decoder, session: DecoderSession) -> None:
    session.prefill([PROMPT])
    before = session.logits()
    with pytest.raises(Cancelled):
        session.prefill([PROMPT], on_progress=lambda done, _total: done < 40)
    assert session.length == len(PROMPT)
    np.testing.assert_array_equal(session.logits(), before)
    assert greedy(session) == answer_of_a_fresh_session(decoder, PROMPT)


def test_cancel_from_another_thread_stops_prefill_until_resume(decoder: Decoder, session: DecoderSession) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def cancel() -> None:
        begun.wait()
        session.cancel()
        cancelled.set()

    def on_progress(_done: int, _total: int) -> None:
        begun.set()
        cancelled.wait(10)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled):
        session.prefill([PROMPT], on_progress=on_progress)
    thread.join()
    assert session.length == 0
    with pytest.raises(Cancelled):
        session.prefill([PROMPT])
    session.resume()
    session.prefill([PROMPT])
    assert greedy(session) == answer_of_a_fresh_session(decoder, PROMPT)


def test_every_reported_token_is_in_the_session_after_a_cancellation(decoder: Decoder, session: DecoderSession) -> None:
    whole = answer_of_a_fresh_session(decoder, PROMPT)
    session.prefill([PROMPT])
    seen: list[int] = []

    def stop_at_three(token: int) -> bool:
        seen.append(token)
        return len(seen) < 3

    with pytest.raises(Cancelled):
        session.generate(GenerateOptions(max_new_tokens=8), stop_at_three)
    assert seen == whole[:3]
    assert session.length == len(PROMPT) + 3
    assert greedy(session, 5) == whole[3:]


def test_cancel_within_generate_stops_after_the_token(session: DecoderSession) -> None:
    session.prefill([PROMPT])
    seen: list[int] = []

    def cancel(token: int) -> None:
        seen.append(token)
        session.cancel()

    with pytest.raises(Cancelled):
        session.generate(GenerateOptions(max_new_tokens=8), cancel)
    assert len(seen) == 1
    assert session.length == len(PROMPT) + 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_exception_in_a_callback_stops_the_call_and_comes_back(
    session: DecoderSession, error: type[BaseException]
) -> None:
    def fail(*_: int) -> None:
        raise error("from the callback")

    with pytest.raises(error, match="from the callback"):
        session.prefill([PROMPT], on_progress=fail)
    assert session.length == 0
    session.prefill([PROMPT])
    with pytest.raises(error, match="from the callback"):
        session.generate(GenerateOptions(max_new_tokens=8), fail)
    assert session.length == len(PROMPT) + 1


def test_context_that_does_not_suffice(decoder: Decoder) -> None:
    with decoder.session(context_length=100) as session:
        session.prefill([PROMPT])
        with pytest.raises(BudgetError, match=r"11 .* 90 .* 100"):
            session.prefill([PROMPT[:11]])
        seen: list[int] = []
        assert session.generate(GenerateOptions(), seen.append) is StopReason.CONTEXT
        assert len(seen) == 10
        assert session.length == 100
    with pytest.raises(InputError, match="1024"):
        decoder.session(context_length=1025)


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("layers.1.attention.qkv.weight", "query, key and value projection of layer 1"),
        ("layers.1.attention.output.weight", "attention output of layer 1"),
        ("layers.2.mlp.gate_up.weight", "MLP activation of layer 2"),
        ("layers.0.mlp.down.weight", "MLP of layer 0"),
        ("layers.2.post_attention_norm", "post-attention norm of layer 2"),
        ("norm", "final norm"),
        ("lm_head.weight", "logits"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numeric_failure_names_the_stage(tmp_path: Path, tensor: str, stage: str, value: float) -> None:
    def damage(tensors: dict[str, Array]) -> None:
        tensors[tensor] = tensors[tensor].copy()
        tensors[tensor].flat[0] = value

    write_decoder(tmp_path, CONFIG, random_weights(CONFIG), damage=damage)
    with Decoder(tmp_path, threads=2) as decoder, decoder.session() as session:
        with pytest.raises(NumericError, match=stage):
            session.prefill([PROMPT])
        assert session.length == 0


def test_session_is_usable_after_broken_embeddings(decoder: Decoder, session: DecoderSession) -> None:
    broken = decoder.embed(PROMPT)
    broken[60, 5] = np.nan
    session.prefill([PROMPT])
    with pytest.raises(NumericError, match="input embeddings"):
        session.prefill([broken])
    session.prefill([PROMPT[:7]])
    assert greedy(session) == answer_of_a_fresh_session(decoder, PROMPT, PROMPT[:7])


def test_bad_segments_are_refused(session: DecoderSession) -> None:
    for segment, message in (
        (np.array([0, 331]), "331"),
        (np.array([-1]), "-1"),
        (np.array([0.5]), "whole numbers"),
        (np.array([2**40]), "32 bits"),
        (np.zeros((2, 191), np.float32), "191"),
        (np.empty(0, np.int32), "nothing"),
    ):
        with pytest.raises(InputError, match=message):
            session.prefill([segment])
    with pytest.raises(InputError, match="nothing"):
        session.prefill([])
    with pytest.raises(InputError, match="prefill"):
        session.generate(GenerateOptions())


def test_logits_that_are_not_kept_are_refused(session: DecoderSession) -> None:
    session.prefill([PROMPT], logit_rows=3)
    assert session.logits(3).shape == (3, CONFIG.vocab_size)
    with pytest.raises(InputError, match="3 are kept"):
        session.logits(4)


def test_two_sessions_in_two_threads(decoder: Decoder) -> None:
    prompts = [PROMPT, PROMPT[::-1].copy()]
    expected = [answer_of_a_fresh_session(decoder, prompt) for prompt in prompts]
    actual: list[list[int]] = [[], []]

    def work(index: int) -> None:
        for _ in range(5):
            with decoder.session(prefill_chunk=8) as session:
                session.prefill([prompts[index]])
                actual[index] = greedy(session)
                assert actual[index] == expected[index]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actual == expected


def test_python_threads_run_during_native_calls(decoder: Decoder) -> None:
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.0005)

    def ran_during(prepare: Callable[[], object], call: Callable[[], object]) -> bool:
        """Repeats a call, since on a busy machine one may be over before the other thread has its turn."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            prepare()
            before = ticks[0]
            call()
            if ticks[0] > before:
                return True
        return False

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread runs only when another gives the interpreter away
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        with decoder.session(prefill_chunk=1000) as session:

            def begin_anew() -> None:
                session.truncate(0)
                session.prefill([PROMPT])

            prefilled = ran_during(begin_anew, lambda: session.prefill([np.resize(PROMPT, 900)]))
            generated = ran_during(begin_anew, lambda: session.generate(GenerateOptions(max_new_tokens=20)))
    finally:
        done.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert prefilled
    assert generated


def test_closing_twice_and_in_any_order(directory: Path) -> None:
    decoder = Decoder(directory, threads=1)
    session = decoder.session()
    decoder.close()
    session.prefill([PROMPT])  # the weights stay as long as a session needs them
    with pytest.raises(Valley2Error, match="closed"):
        decoder.session()
    session.close()
    session.close()
    session.cancel()
    decoder.close()
    with pytest.raises(Valley2Error, match="closed"):
        session.prefill([PROMPT])


def test_callback_cannot_use_its_session(session: DecoderSession) -> None:
    def reenter(_done: int, _total: int) -> None:
        session.truncate(0)

    with pytest.raises(Valley2Error, match="middle of a call"):
        session.prefill([PROMPT], on_progress=reenter)
    with pytest.raises(Valley2Error, match="own callback"):
        session.prefill([PROMPT], on_progress=lambda _done, _total: session.close())


def test_missing_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(tmp_path / "absent.so"))
    with pytest.raises(Valley2Error, match=r"absent\.so is missing"):
        native.library.__wrapped__()
    (tmp_path / "absent.so").write_text("not a library")
    with pytest.raises(Valley2Error, match="cannot be loaded"):
        native.library.__wrapped__()


def test_library_that_lacks_a_function_or_is_of_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "__version__", "999.0.0")
    with pytest.raises(Valley2Error, match=r"is of release \S+, but this package of 999\.0\.0"):
        native.library.__wrapped__()
    monkeypatch.setattr(native, "library_path", lambda: Path(_cffi_backend.__file__))  # a library of others
    with pytest.raises(Valley2Error, match=r"lacks v2e_.*; it belongs to another release"):
        native.library.__wrapped__()


def test_struct_that_is_smaller_than_the_librarys_is_filled_as_far_as_it_goes(decoder: Decoder) -> None:
    description = new_struct("v2e_decoder_description")
    description.struct_size = ffi.offsetof("v2e_decoder_description", "weight_bytes")
    native.check(native.library().v2e_decoder_describe(decoder.handle, description))
    assert description.vocabulary_size == CONFIG.vocab_size
    assert description.weight_bytes == 0
