"""Conversations: answers, turns, early stops, cancellation, statistics."""

from __future__ import annotations

import _thread
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from session_questions import at, picture
from vision_backends import FakeBackend

from valley2_edge import Cancelled, InputError, NumericError, Session, Valley2, Valley2Warning
from valley2_edge.options import PolicyName
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.prompt import Layout, build_first_turn, build_next_turn, encode

GOLDEN = Path(__file__).parents[1] / "golden"
SYSTEM = "You are Valley, developed by ByteDance. Your are a helpfull Assistant."


@pytest.mark.parametrize(("policy", "variant"), [("hub", "hf_eagle_ovis"), ("repo", "eagle_ovis")])
@pytest.mark.parametrize("case", ["tiny30x20", "text_only"])
def test_recorded_answers(model: Valley2, policy: PolicyName, variant: str, case: str) -> None:
    record = json.loads((GOLDEN / "manifest.json").read_text())["cases"][variant][case]
    question = json.loads((GOLDEN / "inputs" / f"{case}.json").read_text())["chat_history"][-1]["content"]
    with np.load(GOLDEN / "inputs" / f"{case}.npz") as archive:
        images = [archive[name] for name in archive.files]
    preset = "full" if policy == "hub" else "document"
    options: Any = {"policy": policy, "strict": True, "system": SYSTEM, "eagle_preset": preset}
    assert "".join(model.chat(question, images=images, max_new_tokens=16, **options)) == record["generated_text"]


def test_question_without_picture_is_text_only(model: Valley2) -> None:
    record = json.loads((GOLDEN / "manifest.json").read_text())["cases"]["eagle_ovis"]["llm_only"]
    session = model.session(system=SYSTEM)
    text = "".join(session.ask("What is the capital of France?", max_new_tokens=16))
    assert text == model.engines.tokenizer.decode(record["greedy_tokens"])
    assert session.statistics.prompt_tokens == session.statistics.text_tokens == record["prefill_len"]
    assert session.statistics.pictures == 0


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 77}, {"temperature": 0.8, "top_k": 5, "seed": 1}])
def test_stream_equals_one_call_of_the_core(model: Valley2, session: Session, options: dict[str, Any]) -> None:
    streamed = "".join(session.ask("Tell me", max_new_tokens=40, repetition_penalty=1.1, **options))
    decoder = model.engines.decoder.session()
    ids = encode(build_first_turn("Tell me", 0, None, Layout(session.policy)), model.engines.tokenizer)
    decoder.prefill([np.array(ids, np.int32)])
    tokens: list[int] = []
    stops = model.bundle.manifest.architecture.stop_tokens
    core = GenerateOptions(max_new_tokens=40, repetition_penalty=1.1, stop_tokens=stops, **options)
    decoder.generate(core, tokens.append)
    assert streamed == model.engines.tokenizer.decode(tokens)
    assert session.context_used == decoder.length


def test_seed_repeats_a_sampled_answer_and_is_reported(model: Valley2) -> None:
    options: Any = {"temperature": 1.5, "max_new_tokens": 20}
    first = model.session()
    answer = "".join(first.ask("Tell me", **options))
    assert "".join(model.chat("Tell me", seed=first.statistics.seed, **options)) == answer
    assert "".join(model.chat("Tell me", seed=first.statistics.seed + 1, **options)) != answer


def test_further_turn_sees_the_whole_conversation(model: Valley2, session: Session) -> None:
    tokenizer, layout = model.engines.tokenizer, Layout(session.policy)
    list(session.ask("One?", max_new_tokens=5))
    second = "".join(session.ask("Two?", max_new_tokens=12))

    decoder = model.engines.decoder.session()
    first_answer: list[int] = []
    ids = encode(build_first_turn("One?", 0, None, layout), tokenizer)
    decoder.prefill([np.array(ids, np.int32)])
    decoder.generate(GenerateOptions(max_new_tokens=5), first_answer.append)
    whole = [*ids, *first_answer, *encode(build_next_turn("Two?", 0, layout), tokenizer)]
    decoder.truncate(0)
    decoder.prefill([np.array(whole, np.int32)])
    tokens: list[int] = []
    decoder.generate(GenerateOptions(max_new_tokens=12), tokens.append)
    assert second == tokenizer.decode(tokens)
    assert session.context_used == len(whole) + len(tokens)


def test_pictures_of_a_further_turn(session: Session) -> None:
    list(session.ask("One?", max_new_tokens=3))
    list(session.ask("And this?", images=[picture()], max_new_tokens=3))
    assert (session.statistics.pictures, session.statistics.tiles) == (1, 2)
    used = session.context_used
    list(session.ask("And now?", max_new_tokens=3))
    assert session.context_used == used + session.statistics.prompt_tokens + session.statistics.new_tokens


def test_statistics_equal_the_geometry(session: Session) -> None:
    list(session.ask("What?", images=[picture(448, 448)], max_new_tokens=4))
    numbers = session.statistics
    assert (numbers.pictures, numbers.tiles, numbers.siglip_tokens, numbers.eagle_tokens) == (1, 5, 980, 256)
    assert numbers.prompt_tokens == numbers.text_tokens + 1236
    assert numbers.context_used == session.context_used == numbers.prompt_tokens + numbers.new_tokens
    assert numbers.stop == ("length" if numbers.new_tokens == 4 else "token")
    assert set(numbers.providers) == {"siglip", "projector", "eagle"}
    times = (numbers.siglip_seconds, numbers.projector_seconds, numbers.eagle_seconds, numbers.prefill_seconds)
    assert all(seconds > 0 for seconds in (*times, numbers.decode_seconds, numbers.preprocess_seconds))
    assert sum(times) + numbers.decode_seconds <= numbers.total_seconds
    assert numbers.first_token_seconds is not None
    assert numbers.first_token_seconds < numbers.total_seconds
    assert numbers.kv_bytes > 0
    assert numbers.decode_tokens_per_second > 0


def test_switched_off_branches_and_caps(model: Valley2) -> None:
    def counts(**options: Any) -> tuple[int, int, int]:
        session = model.session(**options)
        list(session.ask("What?", images=[picture(448, 448)], max_new_tokens=1))
        return session.statistics.tiles, session.statistics.siglip_tokens, session.statistics.eagle_tokens

    assert counts(eagle=False) == (5, 980, 0)
    assert counts(tiles=False) == (1, 196, 256)
    assert counts(eagle_max_tokens=100)[2] <= 100
    assert counts(eagle_min_tokens=400)[2] >= 400


def test_video_is_frames_whatever_its_name(session: Session, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (640, 480))
    for seed in range(3):
        writer.write(picture(640, 480, seed))
    writer.release()
    for name in ("clip.bin", "clip.gif"):
        shutil.copy(tmp_path / "clip.avi", tmp_path / name)
    for given in ({"video": tmp_path / "clip.bin"}, {"images": [tmp_path / "clip.gif"]}):
        list(session.ask("What happens?", frames=3, max_new_tokens=1, **given))
        assert (session.statistics.pictures, session.statistics.tiles) == (3, 3)
        assert session.statistics.eagle_tokens <= 3 * 196


def test_list_of_frames_is_a_video(session: Session) -> None:
    frames = [picture(640, 480, seed) for seed in range(5)]
    given: list[Any] = [frames, [Image.fromarray(frame) for frame in frames]]
    for video in given:
        list(session.ask("What happens?", video=video, frames=3, max_new_tokens=1))
        assert (session.statistics.pictures, session.statistics.tiles) == (3, 3)
        assert session.statistics.eagle_tokens <= 3 * 196
    list(session.ask("What happens?", video=frames[:2], max_new_tokens=1))
    assert session.statistics.pictures == 2


def test_animated_picture_moves_as_a_video_only(session: Session, tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=rest)
    list(session.ask("What happens?", video=tmp_path / "clip.gif", max_new_tokens=1))
    assert session.statistics.pictures == 3
    with pytest.warns(Valley2Warning, match="only the first"):
        list(session.ask("What is it?", images=[tmp_path / "clip.gif"], max_new_tokens=1))
    assert session.statistics.pictures == 1


def test_thinking_is_the_sessions_choice_or_the_questions(model: Valley2) -> None:
    def text_tokens(session: Session, **options: Any) -> int:
        list(session.ask("Why?", max_new_tokens=1, **options))
        return session.statistics.text_tokens

    plain = text_tokens(model.session())
    assert text_tokens(model.session(), think=True) == text_tokens(model.session(think=True)) > plain
    assert text_tokens(model.session(think=True), think=False) == plain


def test_strict_repo_leaves_pictures_out_and_says_so(model: Valley2) -> None:
    session = model.session(policy="repo", strict=True, eagle=False, tiles=False)
    with pytest.warns(Valley2Warning, match="first 8 of 9"):
        list(session.ask("What?", images=[picture(30, 20)] * 9, max_new_tokens=1))
    assert session.statistics.pictures == 8


def test_places_in_the_text_decide_in_strict(model: Valley2) -> None:
    session = model.session(strict=True)
    with pytest.warns(Valley2Warning, match="first 1 of 2"):
        list(session.ask("This <image>?", images=[picture()] * 2, max_new_tokens=1))
    assert session.statistics.pictures == 1
    with pytest.raises(InputError, match="2 places for pictures"):
        list(session.ask("<image><image>", images=[picture()], max_new_tokens=1))


def test_leaving_the_iterator_keeps_exactly_what_was_seen(model: Valley2, session: Session) -> None:
    for piece in session.ask("Tell me", max_new_tokens=50):
        assert piece
        break
    assert session.statistics.stop == "stopped"
    assert session.context_used == session.statistics.prompt_tokens + session.statistics.new_tokens
    assert session.statistics.new_tokens < 50
    assert "".join(session.ask("Again", max_new_tokens=5))


def test_new_question_ends_an_answer_that_is_still_held(session: Session) -> None:
    first = session.ask("Tell me", max_new_tokens=50)
    next(first)
    second = session.ask("Again", max_new_tokens=5)
    assert list(first) == []
    assert first.statistics.stop == "stopped"
    assert "".join(second)


@pytest.mark.parametrize("stage", ["siglip", "eagle", "prefill"])
def test_cancelled_question_leaves_no_trace(model: Valley2, stage: str) -> None:
    session = model.session(prefill_chunk=64)
    expected = "".join(model.chat("What?", images=[picture()], max_new_tokens=8))
    done = 64 if stage == "prefill" else 1
    answer = session.ask("What?", images=[picture()], on_progress=at(stage, done, session.cancel))
    with pytest.raises(Cancelled):
        list(answer)
    assert session.context_used == 0
    assert session.statistics.stop == "cancelled"
    assert "".join(session.ask("What?", images=[picture()], max_new_tokens=8)) == expected


def test_cancelled_answer_stays_as_far_as_it_came(session: Session) -> None:
    pieces: list[str] = []
    answer = session.ask("Tell me", max_new_tokens=1000, on_progress=at("decode", 7, session.cancel))
    with pytest.raises(Cancelled):
        pieces.extend(answer)
    assert pieces
    assert session.statistics.new_tokens == 7
    assert session.context_used == session.statistics.prompt_tokens + 7
    assert "".join(session.ask("Again", max_new_tokens=5))


def test_cancel_from_another_thread(session: Session) -> None:
    started = threading.Event()
    canceller = threading.Thread(target=lambda: started.wait(60) and session.cancel())
    canceller.start()
    answer = session.ask("Tell me", max_new_tokens=30_000, on_progress=at("decode", 3, started.set))
    with pytest.raises(Cancelled):
        list(answer)
    canceller.join()


def test_cancel_before_the_first_piece_counts_and_between_questions_does_not(session: Session) -> None:
    answer = session.ask("Tell me", max_new_tokens=5)
    session.cancel()
    with pytest.raises(Cancelled):
        next(answer)
    session.cancel()
    assert "".join(session.ask("Tell me", max_new_tokens=5))


@pytest.mark.parametrize(("stage", "done"), [("siglip", 1), ("eagle", 0), ("prefill", 64), ("decode", 3)])
def test_ctrl_c_is_heard_in_every_stage(model: Valley2, stage: str, done: int) -> None:
    session = model.session(prefill_chunk=64)
    answer = session.ask("What?", images=[picture(300, 300)], on_progress=at(stage, done, _thread.interrupt_main))
    with pytest.raises(KeyboardInterrupt):
        list(answer)
    assert (session.context_used > 0) == (stage == "decode")
    assert "".join(session.ask("Again", max_new_tokens=5))


def test_exception_of_the_callers_progress_ends_the_question(session: Session) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    for stage, done in (("siglip", 1), ("eagle", 1), ("decode", 1)):
        with pytest.raises(ZeroDivisionError):
            list(session.ask("What?", images=[picture()], on_progress=at(stage, done, fail)))
    assert "".join(session.ask("Again", max_new_tokens=5))


def test_failed_stage_rolls_the_question_back(fp32_bundle: Path, fake: FakeBackend) -> None:
    with Valley2.load(fp32_bundle, threads=1, vision_engine="fake") as model:
        session = model.session()
        list(session.ask("One?", max_new_tokens=5))
        used = session.context_used
        fake.trouble = NumericError("The x engine")
        with pytest.raises(NumericError) as caught:
            list(session.ask("What?", images=[picture()]))
        assert caught.value is fake.trouble
        assert session.context_used == used
        assert [turn.question for turn in session.turns] == ["One?"]
        assert "".join(session.ask("Again", max_new_tokens=5))


@pytest.mark.parametrize("how", ["cancel", "Ctrl-C"])
def test_backend_that_opens_slowly_is_left(fp32_bundle: Path, fake: FakeBackend, how: str) -> None:
    opening, released = threading.Event(), threading.Event()
    open_at_once = fake.open

    def open_slowly(component: str) -> Any:
        opening.set()
        assert released.wait(60)
        return open_at_once(component)

    fake.open = open_slowly  # type: ignore[method-assign]
    with Valley2.load(fp32_bundle, threads=1, vision_engine="fake") as model:
        session = model.session()
        stop = session.cancel if how == "cancel" else _thread.interrupt_main
        stopper = threading.Thread(target=lambda: opening.wait(60) and stop())
        stopper.start()
        with pytest.raises(Cancelled if how == "cancel" else KeyboardInterrupt):
            list(session.ask("What?", images=[picture()]))
        assert not released.is_set()
        stopper.join()
        released.set()
        assert session.turns == ()
        assert "".join(session.ask("Again", images=[picture()], max_new_tokens=3))


def test_two_threads_with_a_session_each(model: Valley2) -> None:
    questions = [("What is this?", picture(200, 100)), ("Which colour?", picture(100, 200))]
    expected = ["".join(model.chat(text, images=[image], max_new_tokens=12)) for text, image in questions]
    answers = ["", ""]

    def work(index: int) -> None:
        text, image = questions[index]
        answers[index] = "".join(model.chat(text, images=[image], max_new_tokens=12))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected
