"""A decoder that a backend computes: the conversation is the core's, the numbers are the backend's."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_decoders import CONFIG, Fixed, Relay, Waiting, write_bundle

from valley2_edge.errors import BudgetError, BundleError, Cancelled, InputError, NumericError, Valley2Error
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost, BackendRun, BackendTable
from valley2_edge.runtime.core.binding import new_struct
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason
from valley2_edge.runtime.core.library import check, library

IDS = np.random.default_rng(7).integers(0, CONFIG.vocab_size, 40, dtype=np.int32)
ROWS = np.random.default_rng(8).standard_normal((5, CONFIG.hidden_size), np.float32)
REPEATING = np.tile(IDS[:6], 8)
"""A prompt that drafts are found in."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("backend") / "bundle")


@pytest.fixture
def relay(directory: Path) -> Relay:
    return Relay(directory)


@pytest.fixture
def decoder(directory: Path, relay: Relay) -> Iterator[Decoder]:
    with Decoder(directory, backend=relay) as opened:
        yield opened


def answer(session: DecoderSession, options: GenerateOptions) -> list[int]:
    tokens: list[int] = []
    session.generate(options, tokens.append)
    return tokens


@pytest.mark.parametrize(
    "options",
    [
        GenerateOptions(max_new_tokens=24),
        GenerateOptions(max_new_tokens=24, repetition_penalty=1.4),
        GenerateOptions(max_new_tokens=24, temperature=0.9, top_k=40, top_p=0.9, seed=11),
        GenerateOptions(max_new_tokens=24, temperature=1.3, min_p=0.02, repetition_penalty=1.1, seed=2),
        GenerateOptions(max_new_tokens=24, speculation="always"),
        GenerateOptions(max_new_tokens=24, temperature=1.3, seed=5, speculation="always"),
    ],
    ids=["greedy", "penalty", "top-k and top-p", "min-p", "drafts", "sampled drafts"],
)
def test_same_logits_give_the_native_answer(decoder: Decoder, relay: Relay, options: GenerateOptions) -> None:
    with decoder.session() as session, relay.native.session() as native:
        for one in (session, native):
            one.prefill([IDS, ROWS, REPEATING])
        assert np.array_equal(session.logits(), native.logits())
        assert answer(session, options) == answer(native, options)
        assert np.array_equal(session.logits(), native.logits())


def test_drafts_are_checked_in_runs_of_several_positions_and_change_no_token(decoder: Decoder, relay: Relay) -> None:
    answers = []
    for speculation in ("off", "always"):
        relay.runs.clear()
        with decoder.session() as session:
            session.prefill([REPEATING])
            answers.append(answer(session, GenerateOptions(max_new_tokens=30, speculation=speculation)))
            counters = session.counters
        steps = relay.runs[1:]
        assert len(steps) == counters.steps and all(count == rows for _, count, rows in steps)
        assert (max(count for _, count, _ in steps) > 1) == (speculation == "always")
        assert sum(count for _, count, _ in steps) == counters.steps + counters.drafted_tokens
    assert answers[0] == answers[1]


def test_prefill_is_cut_into_chunks_of_256_or_as_asked_for(decoder: Decoder, relay: Relay) -> None:
    seen: list[tuple[int, int]] = []
    with decoder.session() as session, decoder.session(prefill_chunk=7) as small:
        session.prefill([np.resize(IDS, 300)], logit_rows=50, on_progress=lambda *done: seen.append(done))
        assert relay.runs == [(0, 256, 6), (256, 44, 44)] and seen == [(256, 300), (300, 300)]
        relay.runs.clear()
        small.prefill([IDS[:20]])
        assert relay.runs == [(0, 7, 0), (7, 7, 0), (14, 6, 1)]


def test_truncated_session_goes_on_as_a_new_one(decoder: Decoder) -> None:
    with decoder.session() as long, decoder.session() as short:
        long.prefill([IDS])
        answer(long, GenerateOptions(max_new_tokens=4))
        long.truncate(30)
        with pytest.raises(InputError, match="no logits"):
            long.generate(GenerateOptions(max_new_tokens=1))
        long.prefill([ROWS])
        short.prefill([IDS[:30], ROWS])
        assert np.array_equal(long.logits(), short.logits())


def test_context_ends_answers_and_refuses_prompts(decoder: Decoder) -> None:
    with decoder.session(context_length=50) as session:
        session.prefill([IDS])
        assert session.generate(GenerateOptions()) == StopReason.CONTEXT and session.length == 50
        with pytest.raises(BudgetError, match="the context holds 50"):
            session.prefill([IDS])
    with pytest.raises(InputError, match="trained for 640 positions"):
        decoder.session(context_length=641)


def test_sessions_are_engines_of_their_own(decoder: Decoder, relay: Relay) -> None:
    with decoder.session(reuse="auto") as one, decoder.session(reuse="auto") as other:
        assert relay.open_engines == 2
        one.prefill([IDS])
        other.prefill([IDS])
        assert relay.runs == [(0, 40, 1)] * 2 and other.counters.reused_positions == 0
    assert relay.open_engines == 0


def test_backend_goes_with_the_decoder(directory: Path) -> None:
    relay = Relay(directory)
    gone = weakref.ref(relay)
    decoder = Decoder(directory, backend=relay)
    session = decoder.session()
    del relay
    decoder.close()
    gc.disable()
    try:
        assert gone() is not None
        session.close()
        assert gone() is None
    finally:
        gc.enable()


def test_description_says_what_computes_and_what_it_takes(directory: Path, relay: Relay) -> None:
    relay.costs = BackendCost(weight_bytes=1000, work_bytes=7, kv_bytes=300, gpu_kv_bytes=40)
    with Decoder(directory, backend=relay, threads=3) as decoder, decoder.session() as session:
        about = decoder.description
        assert (about.isa, about.device_name, about.weight_bytes, about.threads) == ("the relay", "the relay", 1000, 3)
        assert (about.hidden_size, about.layers, about.head_size) == (192, 2, 32)
        assert (about.device, about.gpu_layers, about.gpu_bytes) == ("cpu", 0, 0)
        assert about.mapped_bytes == (directory / "embeddings.safetensors").stat().st_size
        assert session.kv_bytes == 0
        session.prefill([IDS])
        assert session.kv_bytes == 340
    relay.costs = BackendCost(weight_bytes=10, gpu_weight_bytes=1000)
    with Decoder(directory, backend=relay) as decoder:
        about = decoder.description
        assert (about.device, about.gpu_layers, about.gpu_bytes, about.weight_bytes) == ("cuda", 2, 1000, 1010)


def failing(error: BaseException, run: int) -> Callable[[BackendRun, np.ndarray], None]:
    """Raises in the run with this number."""
    left = [run]

    def fail(call: BackendRun, logits: np.ndarray) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return fail


@pytest.mark.parametrize("error", [InputError("of the engine"), KeyError("a bug"), BudgetError("no memory")])
def test_what_a_run_raises_comes_out_and_leaves_the_session_as_it_was(
    decoder: Decoder, relay: Relay, error: Exception
) -> None:
    with decoder.session(prefill_chunk=8) as session:
        session.prefill([IDS[:10]])
        before = session.logits()
        relay.change = failing(error, 1)
        with pytest.raises(type(error)) as raised:
            session.prefill([IDS])
        assert raised.value is error
        assert session.length == 10 and np.array_equal(session.logits(), before)
        with pytest.raises(type(error)):
            session.generate(GenerateOptions(max_new_tokens=1))
        assert session.length == 10
        relay.change = lambda call, logits: None
        session.prefill([IDS[:1]])
        assert session.length == 11


def test_interrupt_in_a_run_leaves_a_reported_token_for_the_next_call(decoder: Decoder, relay: Relay) -> None:
    seen: list[int] = []
    with decoder.session() as session, decoder.session() as whole:
        session.prefill([IDS])
        relay.change = failing(KeyboardInterrupt(), 2)
        with pytest.raises(KeyboardInterrupt):
            session.generate(GenerateOptions(max_new_tokens=9, speculation="off"), seen.append)
        assert session.length == len(IDS) + len(seen) == len(IDS) + 3
        relay.change = lambda call, logits: None
        session.generate(GenerateOptions(max_new_tokens=6, speculation="off"), seen.append)
        whole.prefill([IDS])
        assert seen == answer(whole, GenerateOptions(max_new_tokens=9))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_by_the_backend_s_name(
    decoder: Decoder, relay: Relay, bad: float
) -> None:
    def spoil(_call: BackendRun, logits: np.ndarray) -> None:
        logits[-1:, -1:] = bad

    relay.change = spoil
    with decoder.session() as session, pytest.raises(NumericError, match="the relay computed a NaN or an infinity"):
        session.prefill([IDS])


def test_draft_that_leads_to_no_number_is_dropped(decoder: Decoder, relay: Relay) -> None:
    def spoil(_call: BackendRun, logits: np.ndarray) -> None:
        if len(logits) > 1:
            logits[-1] = np.nan

    with decoder.session() as session, relay.native.session() as native:
        for one in (session, native):
            one.prefill([REPEATING])
        relay.change = spoil
        expected = answer(native, GenerateOptions(max_new_tokens=30))
        assert answer(session, GenerateOptions(max_new_tokens=30, speculation="always")) == expected
        assert max(count for _, count, _ in relay.runs[1:]) > 1


def test_what_open_and_cost_raise_comes_out(directory: Path) -> None:
    class Broken(Fixed):
        name = "broken"
        opens = False

        def open(self, component: BackendComponent) -> Any:
            raise BudgetError("no room for a session")

        def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
            if self.opens:
                return BackendCost()
            raise BundleError("the graphs are gone")

    broken = Broken(np.zeros(CONFIG.vocab_size, np.float32))
    with pytest.raises(BundleError, match="the graphs are gone"):
        Decoder(directory, backend=broken)
    broken.opens = True
    with Decoder(directory, backend=broken) as decoder, pytest.raises(BudgetError, match="no room for a session"):
        decoder.session()


@pytest.mark.parametrize("missing", ["open", "cost", "run", "close"])
def test_backend_without_a_function_is_refused(directory: Path, relay: Relay, missing: str) -> None:
    table = BackendTable(relay)
    setattr(table.struct, missing, ffi.NULL)
    options = new_struct("v2e_decoder_options", backend=table.struct)
    with pytest.raises(InputError, match="backend must have the functions open, cost, run and close"):
        check(library().v2e_decoder_open(str(directory).encode(), options, ffi.new("v2e_decoder **")))


def test_status_without_a_sentence_names_the_backend(directory: Path, relay: Relay) -> None:
    table = BackendTable(relay)
    refuse = ffi.callback("v2e_status(void *, uint32_t, void **)", lambda *words: 2)
    table.struct.open = refuse
    model, session = ffi.new("v2e_decoder **"), ffi.new("v2e_decoder_session **")
    options = new_struct("v2e_decoder_options", backend=table.struct)
    check(library().v2e_decoder_open(str(directory).encode(), options, model))
    with pytest.raises(BundleError, match="The backend the relay failed to open with the status 2"):
        check(library().v2e_decoder_session_open(model[0], new_struct("v2e_decoder_session_options"), session))
    refuse_oddly = ffi.callback("int(void *, uint32_t, void **)", lambda *words: 77)
    table.struct.open = ffi.cast("v2e_status(*)(void *, uint32_t, void **)", refuse_oddly)
    library().v2e_decoder_close(model[0])
    check(library().v2e_decoder_open(str(directory).encode(), options, model))
    with pytest.raises(Valley2Error, match="status 77 and did not say why"):
        check(library().v2e_decoder_session_open(model[0], new_struct("v2e_decoder_session_options"), session))
    library().v2e_decoder_close(model[0])


def test_options_of_the_core_s_own_kernels_are_refused(directory: Path, relay: Relay, decoder: Decoder) -> None:
    for changes in ({"isa": "portable"}, {"activations": "int16"}, {"device": "cuda"}, {"gpu_layers": 1}):
        with pytest.raises(InputError, match="the decoder is computed by the relay, so leave them"):
            Decoder(directory, backend=relay, **changes)
    assert decoder.finest_kv_precision == "auto"
    for precision in ("fp16", "fp32", "int8"):
        with pytest.raises(InputError, match="must be auto: the relay keeps keys and values in a precision of its own"):
            decoder.session(kv_precision=precision)


def test_sizes_come_from_the_manifest_beside_the_directory(tmp_path: Path, directory: Path, relay: Relay) -> None:
    lone = tmp_path / "decoder"
    lone.mkdir()
    (lone / "embeddings.safetensors").write_bytes((directory / "embeddings.safetensors").read_bytes())
    with pytest.raises(BundleError, match=r"valley2\.json"):
        Decoder(lone, backend=relay)
    manifest = (directory.parent / "valley2.json").read_text()
    (tmp_path / "valley2.json").write_text(manifest.replace('"vocab_size": 331', '"vocab_size": 330'))
    with pytest.raises(BundleError, match=r"embeddings.weight is not .* of the shape \(330, 192\)"):
        Decoder(lone, backend=relay)
    (tmp_path / "valley2.json").write_text(manifest)
    with Decoder(lone, backend=relay) as decoder:
        assert np.array_equal(decoder.embed(IDS), relay.native.embed(IDS))


def test_cancel_from_another_thread_reaches_a_run(directory: Path) -> None:
    logits = np.zeros(CONFIG.vocab_size, np.float32)
    waiting = Waiting(logits)
    with Decoder(directory, backend=waiting) as decoder, decoder.session() as session:
        session.prefill([IDS])

        def cancel() -> None:
            assert waiting.begun.wait(30)
            session.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        seen: list[int] = []

        def on_token(token: int) -> None:
            seen.append(token)
            waiting.waits = len(seen) == 3

        with pytest.raises(Cancelled):
            session.generate(GenerateOptions(speculation="off"), on_token)
        other.join()
        assert session.length == len(IDS) + 3  # the step of the third was cut short
        waiting.waits = False
        with pytest.raises(Cancelled):
            session.generate(GenerateOptions(max_new_tokens=1))
        session.resume()
        assert answer(session, GenerateOptions(max_new_tokens=2)) == [0, 0]
        assert session.length == len(IDS) + 5 and session.counters.tokens == 5


def test_cancelled_step_is_decoded_by_the_next_call(decoder: Decoder) -> None:
    seen: list[int] = []
    with decoder.session() as session, decoder.session() as other:
        session.prefill([IDS])

        def stop(token: int) -> None:
            seen.append(token)
            session.cancel()

        with pytest.raises(Cancelled):
            session.generate(GenerateOptions(max_new_tokens=4), stop)
        assert session.length == len(IDS) + 1
        session.resume()
        session.prefill([IDS[:5]])
        other.prefill([np.concatenate([IDS, np.array(seen, np.int32), IDS[:5]])])
        assert np.array_equal(session.logits(), other.logits())


def test_sessions_are_neither_saved_nor_loaded(decoder: Decoder, tmp_path: Path) -> None:
    with decoder.session() as session:
        session.prefill([IDS])
        with pytest.raises(InputError, match="computed by the relay can be neither saved nor loaded"):
            session.save(tmp_path / "saved")
    with pytest.raises(InputError, match="computed by the relay can be neither saved nor loaded"):
        decoder.load_session(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
