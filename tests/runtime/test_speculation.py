"""Drafts change how long an answer takes, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import Cancelled, InputError, NumericError
from valley2_edge.runtime.core.binding import ISA_NUMBERS, isa_available
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason

Tokens = npt.NDArray[np.int32]
SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15
"""What each token adds to the state of the core's generator, a SplitMix64 of one number a token."""
CONFIG = TinyConfig()
ISAS = [name for name in ISA_NUMBERS if name != "auto" and isa_available(name)]
PRECISIONS = ("fp32", "fp16", "int8", "int4", "nf4")
CYCLE = 20
NUMBERS = np.random.default_rng(3)
PHRASE = NUMBERS.integers(0, CONFIG.vocab_size, 12).astype(np.int32)
PROMPTS = {
    "repeated": np.tile(PHRASE, 5),
    "random": NUMBERS.integers(0, CONFIG.vocab_size, 60).astype(np.int32),
    "one token": np.full(30, 5, np.int32),
    "short": PHRASE[:2],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "seed": 11},
    "penalised": {"repetition_penalty": 1.3},
    "few choices": {"temperature": 0.2, "top_k": 2, "seed": 5},
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {}
    for precision in PRECISIONS:
        paths[precision] = tmp_path_factory.mktemp(precision)
        write_decoder(paths[precision], CONFIG, random_weights(CONFIG), precision, symmetric=precision != "int4")
    return paths


@pytest.fixture(scope="module")
def decoder(directories: dict[str, Path]) -> Iterator[Decoder]:
    with Decoder(directories["int4"], threads=2) as opened:
        yield opened


def counting_weights() -> dict[str, npt.NDArray[Any]]:
    """After token n comes n + 1, and 0 after the last of the cycle, whatever stood before."""
    weights = random_weights(CONFIG)
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = np.zeros_like(weights[name])
    weights["model.norm.weight"] = np.ones_like(weights["model.norm.weight"])
    weights["lm_head.weight"] = np.zeros_like(weights["lm_head.weight"])
    weights["lm_head.weight"][:CYCLE] = np.roll(weights["model.embed_tokens.weight"][:CYCLE], 1, axis=0)
    return weights


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoder]:
    path = tmp_path_factory.mktemp("counter")
    write_decoder(path, CONFIG, counting_weights())
    with Decoder(path, threads=1) as opened:
        yield opened


def counted(start: int, count: int) -> list[int]:
    return [(start + index) % CYCLE for index in range(count)]


def answer(session: DecoderSession, speculation: str, count: int = 40, **options: Any) -> list[int]:
    tokens: list[int] = []
    session.generate(GenerateOptions(max_new_tokens=count, speculation=speculation, **options), tokens.append)
    return tokens


def answer_by_single_calls(
    session: DecoderSession, speculation: str, count: int, seed: int = 0, **options: Any
) -> tuple[list[int], list[bytes]]:
    """The tokens, and the logits before each."""
    tokens: list[int] = []
    logits = []
    for step in range(count):
        logits.append(session.logits().tobytes())
        tokens += answer(
            session,
            speculation,
            1,
            seed=(seed + step * SPLITMIX_INCREMENT) % 2**64,
            tokens_to_follow=count - step - 1,
            **options,
        )
    return tokens, logits


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_answer_and_the_state_after_it_are_the_same(decoder: Decoder, prompt: str, options: str) -> None:
    outcomes = []
    for speculation in ("off", "auto", "always"):
        with decoder.session() as session:
            session.prefill([PROMPTS[prompt]])
            tokens = answer(session, speculation, **OPTIONS[options])
            state = (session.length, session.kv_bytes, session.logits().tobytes())
            outcomes.append((tokens, state, answer(session, speculation, 10)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_do_not_depend_on_the_draft_that_they_are_computed_with(
    directories: dict[str, Path], isa: str, precision: str
) -> None:
    """Drafts of every length, right and wrong ones, at every thread count."""
    of_int8 = []
    for threads, activations, kv_precision in ((1, "int8", "fp16"), (3, "int8", "fp16"), (2, "int16", "fp32")):
        outcomes = []
        with Decoder(directories[precision], threads=threads, isa=isa, activations=activations) as opened:
            for speculation in ("off", "always"):
                with opened.session(kv_precision=kv_precision) as session:
                    session.prefill([PROMPTS["repeated"]])
                    greedy = answer_by_single_calls(session, speculation, 25)
                    sampled = answer_by_single_calls(session, speculation, 40, seed=1, temperature=1.0, top_k=2)
                    outcomes.append((greedy, sampled))
                    if speculation == "always":
                        assert session.counters.drafted_tokens > session.counters.accepted_tokens > 0
        assert outcomes[0] == outcomes[1]
        if activations == "int8":
            of_int8.append(outcomes[0])
    assert of_int8[0] == of_int8[1]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_has_the_same_bits_whatever_shares_its_step(
    directories: dict[str, Path], isa: str, precision: str
) -> None:
    prompt, behind = PROMPTS["random"][:43], PROMPTS["random"][43:]
    with Decoder(directories[precision], threads=2, isa=isa) as opened, opened.session() as session:
        session.prefill([prompt])
        single = []
        for token in behind:
            session.prefill([np.array([token], np.int32)])
            single.append(session.logits())
        for rows in range(2, len(behind) + 1):
            session.truncate(len(prompt))
            session.prefill([behind[:rows]], logit_rows=rows)
            assert session.logits(rows).tobytes() == np.concatenate(single[:rows]).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("precision", "kv_precision"), [("int4", "fp32"), ("int4", "fp16"), ("int4", "int8"), ("nf4", "int8")]
)
def test_drafts_over_keys_that_threads_share_change_nothing(
    directories: dict[str, Path], precision: str, kv_precision: str, isa: str
) -> None:
    """Two segments of keys; from two threads on they are computed apart, for one row and for several."""
    prompt = np.tile(PHRASE, 60)[:700]
    outcomes = []
    for threads, speculation in ((1, "off"), (3, "off"), (1, "always"), (3, "always")):
        with (
            Decoder(directories[precision], threads=threads, isa=isa) as opened,
            opened.session(kv_precision=kv_precision) as session,
        ):
            session.prefill([prompt])
            outcomes.append(answer_by_single_calls(session, speculation, 24, repetition_penalty=0.4))
            assert (session.counters.accepted_tokens > 0) == (speculation == "always")
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.parametrize("seed", range(8))
def test_random_decoders_answer_the_same(tmp_path: Path, seed: int) -> None:
    """Small random decoders soon repeat themselves, so that drafts of all kinds come about."""
    write_decoder(tmp_path, CONFIG, random_weights(CONFIG, seed), "int4" if seed % 2 else "fp32")
    random = np.random.default_rng(seed)
    pieces = random.integers(0, CONFIG.vocab_size, (3, 7))
    prompt = pieces[random.integers(0, 3, 9)].ravel().astype(np.int32)
    outcomes = []
    with Decoder(tmp_path, threads=1 + seed % 3) as opened:
        for speculation in ("off", "auto", "always"):
            with opened.session(prefill_chunk=5) as session:
                session.prefill([prompt])
                first = answer(session, speculation, 60)
                session.prefill([opened.embed(prompt[:4]), prompt[:9]])
                outcomes.append((first, answer(session, speculation, 30), session.logits().tobytes()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_right_drafts_save_steps(counter: Decoder) -> None:
    counters = {}
    for speculation in ("off", "always"):
        with counter.session() as session:
            session.prefill([np.arange(CYCLE + 4, dtype=np.int32) % CYCLE])
            assert answer(session, speculation, 64) == counted(4, 64)
            counters[speculation] = session.counters
    assert counters["off"].steps == counters["off"].tokens == 64
    assert counters["off"].drafted_tokens == counters["off"].accepted_tokens == 0
    assert counters["always"].steps == 4  # of 16 tokens each
    assert counters["always"].drafted_tokens == counters["always"].accepted_tokens == 60


def test_calls_of_one_token_share_their_steps(counter: Decoder) -> None:
    with counter.session() as session:
        session.prefill([np.arange(CYCLE + 4, dtype=np.int32) % CYCLE])
        tokens, _ = answer_by_single_calls(session, "always", 64)
        assert tokens == counted(4, 64)
        assert session.counters.steps == 4
        assert answer(session, "always", 1) == counted(68, 1)
        assert session.counters.steps == 5


def test_nothing_is_drafted_where_nothing_repeats(decoder: Decoder) -> None:
    with decoder.session() as session:
        session.prefill([np.arange(60, dtype=np.int32)])
        tokens = answer(session, "auto", 12, temperature=1.5, seed=2)
        assert len(set(tokens)) > 6
        assert session.counters.steps == 12
        assert session.counters.drafted_tokens == 0


def test_a_stop_token_ends_the_answer_inside_a_draft(counter: Decoder) -> None:
    for stop in range(CYCLE):
        with counter.session() as session:
            prompt = np.arange(CYCLE + 4, dtype=np.int32) % CYCLE
            session.prefill([prompt])
            found: list[int] = []
            options = GenerateOptions(speculation="always", stop_tokens=(stop,))
            assert session.generate(options, found.append) is StopReason.TOKEN
            assert found == counted(4, (stop - 4) % CYCLE)
            assert session.length == len(prompt) + len(found)
            assert answer(session, "always", 30) == counted(stop, 30)


def test_max_new_tokens_ends_the_answer_inside_a_draft(counter: Decoder) -> None:
    for most in range(1, 20):
        with counter.session() as session:
            prompt = np.arange(CYCLE + 4, dtype=np.int32) % CYCLE
            session.prefill([prompt])
            assert answer(session, "always", most) == counted(4, most)
            assert session.length == len(prompt) + most
            assert session.counters.drafted_tokens == session.counters.accepted_tokens  # and none beyond
            assert answer(session, "always", 30) == counted(4 + most, 30)


def test_the_context_ends_inside_a_draft(decoder: Decoder) -> None:
    prompt = PROMPTS["repeated"]
    for room in range(1, 9):
        with decoder.session(context_length=len(prompt) + room) as session:
            session.prefill([prompt])
            found: list[int] = []
            assert session.generate(GenerateOptions(speculation="always"), found.append) is StopReason.CONTEXT
            assert session.length == len(prompt) + room == len(prompt) + len(found)


def test_a_cancelled_answer_stays_as_far_as_it_came(counter: Decoder) -> None:
    prompt = np.arange(CYCLE + 4, dtype=np.int32) % CYCLE
    for stop_after in range(1, 20):
        with counter.session() as session:
            session.prefill([prompt])
            found: list[int] = []

            def stop(token: int, found: list[int] = found, most: int = stop_after) -> bool:
                found.append(token)
                return len(found) < most

            with pytest.raises(Cancelled):
                session.generate(GenerateOptions(speculation="always"), stop)
            assert found == counted(4, stop_after)
            assert session.length == len(prompt) + stop_after
            assert answer(session, "always", 30) == counted(4 + stop_after, 30)


def test_cancel_from_another_thread_ends_the_answer_inside_a_draft(counter: Decoder) -> None:
    with counter.session() as session:
        session.prefill([np.arange(CYCLE + 4, dtype=np.int32) % CYCLE])
        found: list[int] = []

        def cancel_at_ten(token: int) -> None:
            found.append(token)
            if len(found) == 10:
                thread = threading.Thread(target=session.cancel)
                thread.start()
                thread.join()

        with pytest.raises(Cancelled):
            session.generate(GenerateOptions(speculation="always"), cancel_at_ten)
        assert found == counted(4, 10)
        session.resume()
        assert answer(session, "always", 30) == counted(14, 30)


def logits_after(decoder: Decoder, *prompts: Tokens) -> bytes:
    with decoder.session() as session:
        for prompt in prompts:
            session.prefill([prompt])
        return session.logits().tobytes()


def test_a_prompt_takes_the_place_of_a_draft_that_was_not_used(decoder: Decoder) -> None:
    prompt, question = PROMPTS["repeated"], PROMPTS["random"]
    for most in (1, 2, 3, 5, 8):
        with decoder.session() as session:
            session.prefill([prompt])
            tokens = answer(session, "always", most, tokens_to_follow=100)
            session.prefill([question])
            so_far = np.concatenate([prompt, np.array(tokens, np.int32)])
            assert session.length == len(so_far) + len(question)
            assert session.logits().tobytes() == logits_after(decoder, so_far, question)


def test_a_cancelled_prompt_leaves_the_answer_before_it_as_it_was(counter: Decoder) -> None:
    with counter.session(prefill_chunk=4) as session:
        session.prefill([np.arange(CYCLE + 4, dtype=np.int32) % CYCLE])
        assert answer(session, "always", 3, tokens_to_follow=100) == counted(4, 3)
        before = session.logits().tobytes()
        with pytest.raises(Cancelled):
            session.prefill([PROMPTS["random"]], on_progress=lambda done, _total: done < 40)
        assert session.logits().tobytes() == before
        assert answer(session, "always", 30) == counted(7, 30)


def test_truncation_forgets_a_draft(decoder: Decoder) -> None:
    prompt = PROMPTS["repeated"]
    with decoder.session() as session:
        session.prefill([prompt])
        answer(session, "always", 2, tokens_to_follow=100)
        session.truncate(20)
        with pytest.raises(InputError, match="prefill"):
            answer(session, "always", 1)
        with pytest.raises(InputError, match="0 are kept"):
            session.logits()
        session.prefill([prompt[20:]])
        assert session.logits().tobytes() == logits_after(decoder, prompt)


def test_one_row_of_logits_is_kept_however_the_token_was_decoded(counter: Decoder) -> None:
    for speculation in ("off", "always"):
        with counter.session() as session:
            session.prefill([np.arange(CYCLE + 4, dtype=np.int32) % CYCLE], logit_rows=3)
            assert session.logits(3).shape == (3, CONFIG.vocab_size)
            for _ in range(3):
                answer(session, speculation, 1, tokens_to_follow=100)
                with pytest.raises(InputError, match="1 are kept"):
                    session.logits(2)


def test_a_draft_that_overflows_does_not_fail_the_answer(tmp_path: Path) -> None:
    """Where `later` stands behind `early`, and only there, their attention score is infinite."""
    weights = counting_weights()
    early, later = 300, 301
    embeddings = weights["model.embed_tokens.weight"]
    embeddings[:, :2] = 0
    embeddings[later, 0] = embeddings[early, 1] = 1
    weights["lm_head.weight"][:, :2] = 0
    for name, column in (("q", 0), ("k", 1)):
        prefix = f"model.layers.0.self_attn.{name}_proj."
        weights[prefix + "bias"] = np.zeros_like(weights[prefix + "bias"])
        weights[prefix + "weight"] = np.zeros_like(weights[prefix + "weight"])
        weights[prefix + "weight"][:, column] = 1e20
    write_decoder(tmp_path, CONFIG, weights)
    # After 2, 3 the draft is `later`, which now stands behind `early`; the answer itself goes on with 4.
    prompt = np.array([2, 3, later, 9, early, 1, 2], np.int32)
    with Decoder(tmp_path, threads=1) as opened, opened.session() as session:
        session.prefill([prompt])
        assert answer(session, "always", 8) == counted(3, 8)
        session.prefill([prompt[:2]])
        with pytest.raises(NumericError, match="attention of layer 0"):
            session.prefill([np.array([later], np.int32)])


def test_unknown_speculation_is_refused(decoder: Decoder) -> None:
    with decoder.session() as session, pytest.raises(InputError, match="speculation"):
        session.generate(GenerateOptions(speculation="sometimes"))
