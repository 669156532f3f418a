"""Keys and values that sessions of a model share: every logit keeps its bits, and memory its budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge import Valley2
from valley2_edge.errors import Cancelled, InputError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession, Segment
from valley2_edge.runtime.core.generation import GenerateOptions

CONFIG = TinyConfig(num_hidden_layers=2)
RANDOM = np.random.default_rng(5)
LONG = RANDOM.integers(0, CONFIG.vocab_size, 600, dtype=np.int32)
"""Two full pages and a part of the third."""
PICTURE = RANDOM.standard_normal((300, CONFIG.hidden_size)).astype(np.float32)
END = np.array([3, 4, 5, 6, 7], np.int32)
PRECISIONS = ("fp32", "fp16", "int8")
MIB = 1 << 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("decoder")
    write_decoder(path, CONFIG, random_weights(CONFIG), "int4")
    return path


@pytest.fixture
def decoder(directory: Path) -> Iterator[Decoder]:
    with Decoder(directory, threads=2) as opened:
        yield opened


def continued(session: DecoderSession, tokens: int = 12, **options: Any) -> list[int]:
    chosen: list[int] = []
    session.generate(GenerateOptions(max_new_tokens=tokens, **options), chosen.append)
    return chosen


def outcome(
    decoder: Decoder, *segments: Segment, reuse: str, rows: int = 1, **options: Any
) -> tuple[npt.NDArray[np.float32], list[int], int]:
    """Logits of a prompt, the answer to it, and the positions that were not computed."""
    with decoder.session(reuse=reuse, **options) as session:
        session.prefill(segments, logit_rows=rows)
        logits = session.logits(rows)
        return logits, continued(session), session.counters.reused_positions


def check_equal(decoder: Decoder, *segments: Segment, reused: int, **options: Any) -> None:
    """A prompt gives the same bits with what was left as without, and as many positions of it were left."""
    expected = outcome(decoder, *segments, reuse="off", **options)
    found = outcome(decoder, *segments, reuse="auto", **options)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert (found[2], expected[2]) == (reused, 0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shared", [1, 255, 256, 257, 512, 599])
def test_shared_beginning_changes_no_bit(decoder: Decoder, precision: str, shared: int) -> None:
    outcome(decoder, LONG, reuse="auto", kv_precision=precision)
    other = np.concatenate([LONG[:shared], (LONG[shared:] + 1) % CONFIG.vocab_size])
    check_equal(decoder, other, reused=shared, kv_precision=precision, prefill_chunk=100)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pictures_are_known_by_their_embeddings(decoder: Decoder, precision: str) -> None:
    outcome(decoder, LONG[:30], PICTURE, LONG[:40], reuse="auto", kv_precision=precision)
    check_equal(decoder, LONG[:30], PICTURE, END, reused=330, kv_precision=precision)
    other = PICTURE.copy()
    other[200, 7] += 1e-3
    check_equal(decoder, LONG[:30], other, END, reused=230, kv_precision=precision)


def test_embedding_of_a_token_is_not_the_token(decoder: Decoder) -> None:
    outcome(decoder, LONG, reuse="auto")
    check_equal(decoder, decoder.embed(LONG), reused=0)


def test_precisions_do_not_mix(decoder: Decoder) -> None:
    outcome(decoder, LONG, reuse="auto", kv_precision="fp32")
    check_equal(decoder, LONG, reused=0, kv_precision="int8")


def test_rows_of_logits_are_computed(decoder: Decoder) -> None:
    outcome(decoder, LONG, reuse="auto")
    check_equal(decoder, LONG, reused=520, rows=80)
    check_equal(decoder, LONG, reused=599)


def test_session_that_shares_nothing_leaves_nothing(decoder: Decoder) -> None:
    outcome(decoder, LONG, reuse="off")
    assert decoder.prefix_cache.pages == 0
    check_equal(decoder, LONG, reused=0)


@pytest.mark.parametrize("speculation", ["off", "auto", "always"])
def test_answers_are_left_for_the_next_turn(decoder: Decoder, speculation: str) -> None:
    prompt = np.resize(LONG[:90], 500)
    with decoder.session(reuse="auto") as session:
        session.prefill([prompt])
        answer = continued(session, 40, speculation=speculation)
    whole = np.concatenate([prompt, np.array(answer, np.int32), END])
    check_equal(decoder, whole, reused=540)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_live_session_keeps_what_others_took(decoder: Decoder, precision: str) -> None:
    with decoder.session(reuse="auto", kv_precision=precision) as one:
        one.prefill([LONG])
        with decoder.session(reuse="auto", kv_precision=precision) as other:
            other.prefill([LONG[:590], END])
            assert other.counters.reused_positions == 590
            answers = [continued(one, 30), continued(other, 30)]
    expected = []
    for segments in ([LONG], [LONG[:590], END]):
        with decoder.session(kv_precision=precision) as fresh:
            fresh.prefill(segments)
            expected.append(continued(fresh, 30))
    assert answers == expected


@pytest.mark.parametrize("speculation", ["off", "always"])
def test_answer_made_again_and_question_edited(decoder: Decoder, speculation: str) -> None:
    with decoder.session(reuse="auto") as session:
        session.prefill([LONG])
        first = continued(session, 30, speculation=speculation)
        session.truncate(570)
        session.prefill([LONG[570:]])
        assert session.counters.reused_positions == 29
        assert continued(session, 30, speculation=speculation) == first
        session.truncate(300)  # inside a page that is shared
        session.prefill([END])
        edited = continued(session, speculation=speculation)
        assert session.counters.reused_positions == 29
        assert edited == outcome(decoder, LONG[:300], END, reuse="off")[1]
    check_equal(decoder, LONG, reused=599)  # the first one is still what it was


def test_cancelled_prefill_leaves_the_session_and_others_as_they_were(decoder: Decoder) -> None:
    outcome(decoder, LONG[:400], reuse="auto")
    with decoder.session(reuse="auto", prefill_chunk=32) as session:
        session.prefill([LONG[:270]])
        with pytest.raises(Cancelled):
            session.prefill([LONG[270:]], on_progress=lambda done, _total: done < 200)
        assert session.length == 270
        session.prefill([END])
        assert continued(session) == outcome(decoder, LONG[:270], END, reuse="off")[1]
    check_equal(decoder, LONG[:400], reused=399)


def test_several_threads(decoder: Decoder) -> None:
    prompts = [np.concatenate([LONG[: 200 + 90 * index], END]) for index in range(4)]
    expected = [outcome(decoder, prompt, reuse="off")[:2] for prompt in prompts]
    decoder.resize_prefix_cache(5 * page_bytes(decoder))
    wrong: list[int] = []

    def work(index: int) -> None:
        for step in range(6):
            chosen = (index + step) % 4
            logits, tokens, _ = outcome(decoder, prompts[chosen], reuse="auto")
            if tokens != expected[chosen][1] or not np.array_equal(logits, expected[chosen][0]):
                wrong.append(chosen)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert decoder.prefix_cache.kept_bytes <= 5 * page_bytes(decoder)


def page_bytes(decoder: Decoder) -> int:
    with decoder.session() as session:
        session.prefill([END])
        return session.kv_bytes


def test_budget_is_kept_and_counted(decoder: Decoder) -> None:
    page = page_bytes(decoder)
    assert decoder.prefix_cache.budget_bytes == 256 * MIB
    outcome(decoder, LONG, reuse="auto")
    state = decoder.prefix_cache
    assert (state.kept_bytes, state.pages) == (3 * page, 3)
    decoder.resize_prefix_cache(2 * page)
    assert decoder.prefix_cache.kept_bytes == 2 * page
    check_equal(decoder, LONG, reused=512)
    assert decoder.prefix_cache.kept_bytes == 2 * page
    decoder.resize_prefix_cache(0)
    assert (decoder.prefix_cache.kept_bytes, decoder.prefix_cache.pages) == (0, 0)
    check_equal(decoder, LONG, reused=0)
    assert decoder.prefix_cache.kept_bytes == 0


def test_live_sessions_share_without_a_budget(decoder: Decoder) -> None:
    decoder.resize_prefix_cache(0)
    with decoder.session(reuse="auto") as one, decoder.session(reuse="auto") as other:
        for session in (one, other):
            session.prefill([LONG])
        assert other.counters.reused_positions == 599
        assert continued(one) == continued(other)
        assert decoder.prefix_cache.kept_bytes == 0


def test_repetition_penalty_counts_reused_tokens(decoder: Decoder) -> None:
    penalised: Any = {"repetition_penalty": 1.3}
    answers = []
    for reuse in ("off", "auto", "auto"):
        with decoder.session(reuse=reuse) as session:
            session.prefill([LONG])
            answers.append(continued(session, **penalised))
    assert answers[0] == answers[1] == answers[2]


def test_unknown_choice_is_refused(decoder: Decoder) -> None:
    with pytest.raises(InputError, match="reuse is 'yes'"):
        decoder.session(reuse="yes")
    with pytest.raises(InputError, match="prefix_cache_bytes is -1"):
        decoder.resize_prefix_cache(-1)


def test_second_question_about_a_picture_computes_its_text_only(int4_bundle: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    questions = ("What is this?", "Which colour is it?")

    def ask(model: Valley2, question: str) -> tuple[str, int, int]:
        session = model.session()
        text = "".join(session.ask(question, images=[picture], max_new_tokens=8))
        numbers = session.statistics
        session.close()
        return text, numbers.reused_tokens, numbers.prompt_tokens

    with Valley2.load(int4_bundle, threads=2, vision_cache_bytes=0, prefix_cache_bytes=0) as model:
        expected = [ask(model, question)[0] for question in questions]
    with Valley2.load(int4_bundle, threads=2) as model:
        answers = [ask(model, question) for question in questions]
        assert [answer[0] for answer in answers] == expected
        assert answers[0][1] == 0
        assert answers[1][2] - answers[1][1] < 30 < answers[1][1]
        session = model.session()
        list(session.ask(questions[0], images=[picture], max_new_tokens=8))
        assert session.statistics.prefix_cache_bytes == model.engines.decoder.prefix_cache.kept_bytes
