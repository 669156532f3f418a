"""The error of a full context names what would make the question fit, and following it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from valley2_edge import Valley2
from valley2_edge.builtin import builtin_bundle
from valley2_edge.errors import BudgetError
from valley2_edge.runtime.session import Session

RANDOM = np.random.default_rng(11)
PICTURE = RANDOM.integers(0, 256, (600, 900, 3), np.uint8)
PICTURES = [RANDOM.integers(0, 256, (200 + 40 * index, 300, 3), np.uint8) for index in range(6)]
CONTEXTS = (256, 320, 400, 512, 700)
ASKED: dict[str, dict[str, Any]] = {
    "a picture": {"images": [PICTURE]},
    "pictures": {"images": PICTURES},
    "frames": {"video": PICTURES},
}


@pytest.fixture(scope="module")
def model() -> Iterator[Valley2]:
    directory = builtin_bundle("nano")
    assert directory is not None
    with Valley2.load(directory, threads=1) as loaded:
        yield loaded


def ask(session: Session, media: dict[str, Any], question: str = "What is this?") -> None:
    for _ in session.ask(question, max_new_tokens=1, **media):
        pass


def refusal(session: Session, media: dict[str, Any], question: str = "What is this?") -> str:
    with pytest.raises(BudgetError) as caught:
        ask(session, media, question)
    return str(caught.value)


def options_of(way: str) -> dict[str, Any]:
    """The keyword arguments of `Valley2.session` that a way names by the command's options."""
    found: dict[str, Any] = {}
    for option, value in re.findall(r"--([a-z-]+)(?: ([a-z0-9]+))?", way):
        if option.startswith("no-"):
            found[option[3:]] = False
        elif option != "frames":
            found[option.replace("-", "_")] = int(value) if value.isdigit() else value
    return found


def media_of(way: str, media: dict[str, Any]) -> dict[str, Any]:
    """The pictures that a way leaves."""
    fewer = re.search(r"--frames (\d+)|the first (\d+) of", way)
    if fewer is None:
        return media
    count = int(fewer[1] or fewer[2])
    return {name: pictures[:count] for name, pictures in media.items()}


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("length", CONTEXTS)
def test_each_way_that_is_named_makes_the_question_fit(model: Valley2, asked: str, length: int) -> None:
    media = ASKED[asked]
    with closing(model.session(context_length=length)) as session:
        said = refusal(session, media)
    advice = said.partition("It would fit with ")[2].removesuffix(".")
    assert advice, said
    for way in advice.split(" or "):
        with closing(model.session(**{"context_length": length, **options_of(way)})) as session:
            ask(session, media_of(way, media))


@pytest.mark.parametrize(
    ("length", "way"), [(512, "--eagle-preset fast"), (256, "--eagle-max-tokens 64"), (140, "--no-eagle")]
)
def test_what_loses_least_is_named(model: Valley2, length: int, way: str) -> None:
    with closing(model.session(context_length=length, eagle_preset="full")) as session:
        assert way in refusal(session, ASKED["a picture"])


def test_one_picture_more_than_is_named_does_not_fit(model: Valley2) -> None:
    with closing(model.session(context_length=512)) as session:
        said = refusal(session, ASKED["pictures"])
        count = int(re.findall(r"the first (\d+) of the 6 pictures", said)[0])
        # The sentence leaves room for an answer of 64 tokens, so the next one may fit with less.
        assert refusal(session, {"images": PICTURES[: count + 2]})


def test_conversation_that_is_full_is_left_for_a_new_one(model: Valley2) -> None:
    with closing(model.session(context_length=512, eagle_preset="fast")) as session:
        ask(session, ASKED["a picture"])
        said = refusal(session, ASKED["a picture"])
        assert "a new conversation (/reset)" in said and "--context-length" in said
    with closing(model.session(context_length=512, eagle_preset="fast")) as session:
        ask(session, ASKED["a picture"])


def test_text_alone_names_a_longer_context_as_far_as_there_is_one(model: Valley2) -> None:
    words = "word " * 600
    with closing(model.session(context_length=256)) as session:
        said = refusal(session, {}, words)
        assert "--context-length" in said and "eagle" not in said
        longer = int(re.findall(r"--context-length (\d+)", said)[0])
    with closing(model.session(context_length=longer)) as session:
        ask(session, {}, words)
    with closing(model.session()) as session:
        assert refusal(session, {}, words * 20).endswith("are free; ask a shorter question.")
