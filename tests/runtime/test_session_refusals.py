"""What a session refuses, and what it keeps when a question ends early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from session_questions import at, picture

from valley2_edge import BudgetError, Cancelled, InputError, Session, Valley2, Valley2Warning
from valley2_edge.runtime.inquiry import Inquiry


def test_session_refuses_a_question_while_it_works(session: Session) -> None:
    errors: list[InputError] = []

    def ask_again() -> None:
        with pytest.raises(InputError, match="one at a time") as caught:
            session.ask("Me too")
        errors.append(caught.value)

    list(session.ask("Tell me", max_new_tokens=3, on_progress=at("decode", 1, ask_again)))
    assert errors


@pytest.mark.parametrize("system", ["name \udcff", "a" * ((1 << 20) + 1)])
def test_system_prompt_that_is_no_text_is_refused(model: Valley2, system: str) -> None:
    with pytest.raises(InputError, match="The system prompt"):
        model.session(system=system)
    with pytest.raises(InputError, match="The system prompt"):
        Inquiry(model.engines, system=system)


def test_refused_question_leaves_an_iterator_of_pictures_unread(session: Session) -> None:
    pictures = iter([picture()])
    with pytest.raises(InputError, match="max_new_tokens"):
        session.ask("What?", images=pictures, max_new_tokens=0)
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.ask("What?", images=pictures)
    assert len(list(pictures)) == 1


def test_refused_question_does_not_end_the_running_answer(model: Valley2, session: Session) -> None:
    answer = session.ask("Tell me", max_new_tokens=6)
    pieces = [next(answer)]
    for refused in ({"temperature": -1}, {"images": [3]}):
        with pytest.raises(InputError):
            session.ask("And?", **refused)
    pieces += answer
    assert "".join(pieces) == "".join(model.chat("Tell me", max_new_tokens=6))
    assert answer.statistics.stop in ("length", "token")


@pytest.mark.parametrize("stage", ["siglip", "prefill", "decode"])
@pytest.mark.parametrize("act", ["ask", "close", "close the answer", "save", "go on", "close the model"])
def test_callbacks_can_only_cancel(model: Valley2, tmp_path: Path, stage: str, act: str) -> None:
    session = model.session()
    acts: dict[str, Callable[[], object]] = {
        "ask": lambda: session.ask("Me too"),
        "close": session.close,
        "close the answer": lambda: answer.close(),
        "save": lambda: session.save(tmp_path / "talk"),
        "go on": lambda: next(answer),
        "close the model": model.close,
    }
    errors: list[InputError] = []

    def progress(name: str, done: int, total: int) -> None:
        if name == stage and not errors:
            with pytest.raises(InputError, match="callbacks of its answer can only cancel") as caught:
                acts[act]()
            errors.append(caught.value)

    answer = session.ask("Tell me", images=[picture()], max_new_tokens=3, on_progress=progress)
    if act.startswith("close") and act != "close the answer":
        # What was asked for is still done as far as it can be: the question is cancelled.
        with pytest.raises(Cancelled):
            list(answer)
    else:
        list(answer)
    assert errors
    assert "".join(session.ask("Again", max_new_tokens=3))


def test_exception_of_the_consumer_keeps_what_was_seen(session: Session) -> None:
    def consume() -> None:
        for _ in session.ask("Tell me", images=[picture()], max_new_tokens=50):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert "".join(session.ask("Again", max_new_tokens=5))
    assert [turn.question for turn in session.turns] == ["Tell me", "Again"]
    assert session.turns[0].pictures == 1


def test_answer_that_is_closed_before_it_begins_leaves_no_trace(session: Session) -> None:
    session.ask("Tell me", images=[picture()]).close()
    assert (session.context_used, session.turns) == (0, ())
    assert "".join(session.ask("Again", max_new_tokens=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": " "}, "question is empty"),
        ({"question": b"x"}, "must be text"),
        ({"images": ["a.mp4", "b.jpg"]}, "not about both"),
        ({"images": ["b.jpg"], "video": "a.mp4"}, "not about both"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"question": "a" * (1 << 20) + "b"}, "more than any context holds"),
        ({"question": "name \udcff"}, "no text in UTF-8"),
    ],
)
def test_bad_options_are_refused_at_once(session: Session, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.ask(**{"question": "What?", **options})


def test_bad_pictures_leave_the_session_as_it_was(session: Session, tmp_path: Path) -> None:
    text = tmp_path / "letter.jpg"
    text.write_text("Dear picture,")
    Image.new("RGB", (1, 20000)).save(tmp_path / "thin.png")
    for name in ("none.jpg", "letter.jpg", "thin.png"):
        with pytest.raises(InputError):
            list(session.ask("What?", images=[tmp_path / name]))
    assert session.context_used == 0


def test_question_longer_than_the_context(model: Valley2) -> None:
    session = model.session(context_length=200)
    with pytest.raises(BudgetError, match=r"needs 1\d\d\d positions .* only 200 of the context's 200 are free"):
        list(session.ask("What?", images=[picture(448, 448)]))
    assert session.statistics.siglip_seconds == 0
    assert session.context_used == 0


def test_full_context_ends_the_answer_and_says_so(model: Valley2) -> None:
    session = model.session(context_length=100)
    with pytest.warns(Valley2Warning, match="context of 100 positions is full"):
        list(session.ask("Tell me", max_new_tokens=1000))
    assert session.statistics.stop == "context"
    assert session.context_used == 100


def test_closed_sessions_and_models_refuse(fp32_bundle: Path) -> None:
    model = Valley2.load(fp32_bundle, threads=1)
    session = model.session()
    answer = session.ask("Tell me", max_new_tokens=50)
    next(answer)
    model.close()
    assert list(answer) == []
    with pytest.raises(InputError, match="session is closed"):
        session.ask("More")
    with pytest.raises(InputError, match="model is closed"):
        model.session()


def test_unknown_options_are_errors(model: Valley2) -> None:
    with pytest.raises(InputError, match="no option temprature; did you mean temperature"):
        model.chat("What?", temprature=1.0)
    with pytest.raises(InputError, match="policy"):
        model.chat("What?", policy="git")
