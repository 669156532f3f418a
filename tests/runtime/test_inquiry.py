"""Independent questions about the same pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from valley2_edge import InputError, Valley2
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.prompt import Layout, build_first_turn, encode
from valley2_edge.runtime.engines import prompt_segments
from valley2_edge.runtime.inquiry import LOGIT_ROWS, Inquiry

QUESTIONS = ("Which price is on the left card?", "Which price is on the right card?", "Hello")


@pytest.fixture(scope="module")
def model(fp32_bundle: Path) -> Iterator[Valley2]:
    with Valley2.load(fp32_bundle, threads=1, keep_vision=True) as loaded:
        yield loaded


@pytest.fixture
def inquiry(model: Valley2) -> Iterator[Inquiry]:
    with Inquiry(model.engines) as inquiry:
        yield inquiry


def picture(seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("shown", [{"images": [picture()]}, {"images": [picture(), picture(2)]}, {}])
def test_every_answer_is_that_of_a_new_session(model: Valley2, inquiry: Inquiry, shown: dict[str, Any]) -> None:
    inquiry.show(**shown)
    for question in (*QUESTIONS, QUESTIONS[0]):
        assert inquiry.ask(question, max_new_tokens=6).text == "".join(model.chat(question, **shown, max_new_tokens=6))


def test_other_pictures_replace_the_first(model: Valley2, inquiry: Inquiry) -> None:
    for seed in (1, 2):
        inquiry.show([picture(seed)])
        expected = "".join(model.chat("Hello", images=[picture(seed)], max_new_tokens=6))
        assert inquiry.ask("Hello", max_new_tokens=6).text == expected
    inquiry.show(video=[picture(1), picture(2)])
    expected = "".join(model.chat("Hello", video=[picture(1), picture(2)], max_new_tokens=6))
    assert inquiry.ask("Hello", max_new_tokens=6).text == expected


def test_shared_prefix_is_computed_once(model: Valley2, inquiry: Inquiry, monkeypatch: pytest.MonkeyPatch) -> None:
    inquiry.show([picture()])
    inquiry.ask(QUESTIONS[0], max_new_tokens=3)
    prefilled: list[int] = []
    prefill = inquiry._decoder.prefill

    def counted(segments: Any, logit_rows: int = 1) -> None:
        prefilled.extend(len(segment) for segment in segments)
        prefill(segments, logit_rows)

    monkeypatch.setattr(inquiry._decoder, "prefill", counted)
    inquiry.ask(QUESTIONS[1], max_new_tokens=3)
    assert len(prefilled) == 1  # text alone
    assert prefilled[0] < len(model.engines.tokenizer.encode_text(QUESTIONS[1])) + 10


def test_pictures_are_encoded_once(model: Valley2, inquiry: Inquiry, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode_pictures = model.engines.vision.encode
    monkeypatch.setattr(model.engines.vision, "encode", lambda *given: calls.append(1) or encode_pictures(*given))
    inquiry.show([picture()])
    for question in QUESTIONS:
        inquiry.ask(question, max_new_tokens=1)
    assert len(calls) == 1


def test_logits_are_those_of_a_plain_prefill(model: Valley2, inquiry: Inquiry) -> None:
    inquiry.show()
    answer = [5, 6, 7, 8]
    inquiry.ask("Hello there", max_new_tokens=4)
    found = inquiry.logits("Hello", answer)
    ids = encode(build_first_turn("Hello", 0, None, Layout(Policy())), model.engines.tokenizer)
    with model.engines.decoder.session() as decoder:
        decoder.prefill([np.array([*ids, *answer[:-1]], np.int32)], logit_rows=4)
        np.testing.assert_array_equal(found, decoder.logits(4))


def test_logits_of_a_long_answer_come_in_blocks(model: Valley2, inquiry: Inquiry) -> None:
    inquiry.show([picture()])
    answer = [3 + place % 500 for place in range(2 * LOGIT_ROWS + 3)]
    blocks = list(inquiry.logit_blocks("Hello", answer))
    assert [len(block) for block in blocks] == [LOGIT_ROWS, LOGIT_ROWS, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), inquiry.logits("Hello", answer))
    ids = encode(build_first_turn("Hello", 1, None, Layout(Policy())), model.engines.tokenizer)
    segments = prompt_segments([*ids, *answer[:-1]], inquiry._pictures)
    with model.engines.decoder.session() as decoder:
        decoder.prefill(segments, logit_rows=len(answer))
        np.testing.assert_allclose(np.concatenate(blocks), decoder.logits(len(answer)), rtol=0, atol=1e-3)


def test_logits_of_a_text_need_no_prompt(model: Valley2, inquiry: Inquiry) -> None:
    inquiry.show([picture()])
    inquiry.ask("Hello", max_new_tokens=2)
    text = [3 + place % 500 for place in range(LOGIT_ROWS + 9)]
    blocks = list(inquiry.text_logit_blocks(text[:2], text[2:]))
    assert [len(block) for block in blocks] == [LOGIT_ROWS, 7]
    with model.engines.decoder.session() as decoder:
        decoder.prefill([np.array(text[:-1], np.int32)], logit_rows=len(text) - 2)
        np.testing.assert_allclose(np.concatenate(blocks), decoder.logits(len(text) - 2), rtol=0, atol=1e-3)
    with pytest.raises(InputError, match="nothing to be predicted from"):
        next(inquiry.text_logit_blocks([], [3]))
    with pytest.raises(InputError, match="no logits"):
        next(inquiry.text_logit_blocks([3], []))


def test_sharing_changes_no_bit_of_a_quantised_decoder(int4_bundle: Path) -> None:
    with Valley2.load(int4_bundle, threads=1, keep_vision=True) as model, Inquiry(model.engines) as shared:
        shared.show([picture()])
        shared.ask(QUESTIONS[0], max_new_tokens=4)
        for question in QUESTIONS[1:]:
            with Inquiry(model.engines) as fresh:
                fresh.show([picture()])
                expected = fresh.logits(question, [5, 6, 7])
            np.testing.assert_array_equal(shared.logits(question, [5, 6, 7]), expected)


def test_greedy_tokens_are_the_likeliest_ones(inquiry: Inquiry) -> None:
    inquiry.show([picture()])
    reply = inquiry.ask("Hello", max_new_tokens=5)
    logits = inquiry.logits("Hello", reply.tokens)
    assert logits.argmax(axis=1).tolist() == list(reply.tokens)


def test_stop_token_belongs_to_the_tokens_and_not_to_the_text(model: Valley2, inquiry: Inquiry) -> None:
    inquiry.show()
    first, second, *_ = inquiry.ask("Hello", max_new_tokens=4).tokens
    architecture = model.engines.architecture
    changed = architecture.model_copy(update={"stop_tokens": (second,)})
    inquiry._engines = dataclasses.replace(model.engines, architecture=changed)
    reply = inquiry.ask("Hello", max_new_tokens=4)
    assert reply.tokens == (first, second)
    assert reply.text == model.engines.tokenizer.decode([first])


def test_thinking_changes_the_prompt(model: Valley2, inquiry: Inquiry) -> None:
    inquiry.show()
    expected = "".join(model.chat("Hello", think=True, max_new_tokens=6))
    assert inquiry.ask("Hello", think=True, max_new_tokens=6).text == expected


def test_bad_questions_are_refused(model: Valley2, inquiry: Inquiry, tmp_path: Path) -> None:
    inquiry.show()
    with pytest.raises(InputError, match="empty"):
        inquiry.ask(" ")
    with pytest.raises(InputError, match="max_new_tokens"):
        inquiry.ask("Hello", max_new_tokens=0)
    with pytest.raises(InputError, match="without tokens"):
        inquiry.logits("Hello", [])
    with pytest.raises(InputError, match="There is no picture"):
        inquiry.show([tmp_path / "none.png"])
    with pytest.raises(InputError, match="strict"):
        Inquiry(model.engines, policy=Policy(strict=True))
    assert inquiry.ask("Hello", max_new_tokens=1).tokens


def test_failed_show_leaves_the_pictures_before_it(model: Valley2, inquiry: Inquiry, tmp_path: Path) -> None:
    inquiry.show([picture()])
    expected = inquiry.ask("Hello", max_new_tokens=6).text
    with pytest.raises(InputError):
        inquiry.show([tmp_path / "none.png"])
    assert inquiry.ask("Hello", max_new_tokens=6).text == expected
    with pytest.raises(InputError):
        inquiry.show([picture(2), tmp_path / "none.png"])
    assert inquiry.ask("Hello again", max_new_tokens=6).text == "".join(
        model.chat("Hello again", images=[picture()], max_new_tokens=6)
    )
