"""Answers in programs that run an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from session_questions import at, picture

from valley2_edge import Cancelled, InputError, Session, Valley2

LONG: Any = {"max_new_tokens": 30_000, "repetition_penalty": 1.1}


def run(program: Coroutine[Any, Any, Any]) -> Any:
    """What a program returns that ends within a minute."""

    async def limited() -> Any:
        return await asyncio.wait_for(program, 60)

    return asyncio.run(limited())


def test_pieces_are_those_of_ask(model: Valley2, session: Session) -> None:
    async def program() -> list[str]:
        return [piece async for piece in session.ask_async("What?", images=iter([picture()]), max_new_tokens=12)]

    pieces = run(program())
    assert pieces == list(model.chat("What?", images=[picture()], max_new_tokens=12))
    assert session.statistics.stop in ("length", "token")
    assert [turn.answer for turn in session.turns] == ["".join(pieces)]


def test_event_loop_goes_on_while_an_answer_is_computed(session: Session) -> None:
    async def program() -> None:
        turned = asyncio.Event()
        waiting = asyncio.get_running_loop().call_soon(turned.set)
        first = await anext(session.ask_async("Tell me", max_new_tokens=5))
        assert first and turned.is_set() and not waiting.cancelled()

    run(program())


def test_cancelled_task_cancels_the_answer(session: Session) -> None:
    async def program() -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def read() -> None:
            report = at("decode", 3, lambda: loop.call_soon_threadsafe(begun.set))
            async for _ in session.ask_async("Tell me", on_progress=report, **LONG):
                pass

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.context_used >= session.statistics.prompt_tokens
        assert [piece async for piece in session.ask_async("Again", max_new_tokens=5)]

    run(program())
    assert [turn.question for turn in session.turns] == ["Tell me", "Again"]


def test_cancel_of_the_session_raises_in_the_task(session: Session) -> None:
    async def program() -> None:
        with pytest.raises(Cancelled):
            async for _ in session.ask_async("Tell me", on_progress=at("decode", 3, session.cancel), **LONG):
                pass

    run(program())
    assert session.statistics.stop == "cancelled"


def test_left_answer_keeps_what_was_seen(session: Session) -> None:
    async def program() -> str:
        answer = session.ask_async("Tell me", **LONG)
        piece = await anext(answer)
        await answer.aclose()
        return piece

    seen = run(program())
    assert session.statistics.stop == "stopped"
    assert session.turns[0].answer == seen
    assert "".join(session.ask("Again", max_new_tokens=5))


def test_bad_questions_are_refused_at_once(session: Session) -> None:
    with pytest.raises(InputError, match="question is empty"):
        session.ask_async(" ")
    with pytest.raises(InputError, match="no option temprature"):
        session.ask_async("What?", temprature=1)


def test_unusable_picture_raises_in_the_task(session: Session) -> None:
    async def program() -> None:
        async for _ in session.ask_async("What?", images=["none.jpg"]):
            pass

    with pytest.raises(InputError, match=r"none\.jpg"):
        run(program())
    assert session.turns == ()
