"""The native sampler draws from the distribution that its options describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import InputError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions, StopReason

Array = npt.NDArray[Any]
CONFIG = TinyConfig(num_hidden_layers=1)
PROMPT = np.array([3, 5, 8, 13, 21], np.int32)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DecoderSession]:
    directory = tmp_path_factory.mktemp("decoder")
    write_decoder(directory, CONFIG, random_weights(CONFIG, seed=3))
    with Decoder(directory, threads=1) as decoder, decoder.session() as opened:
        yield opened


def restart(session: DecoderSession, prompt: Array = PROMPT) -> Array:
    """The logits behind the prompt, (vocabulary,)."""
    session.truncate(0)
    session.prefill([prompt])
    return session.logits()[0]


def generated(session: DecoderSession, options: GenerateOptions) -> list[int]:
    tokens: list[int] = []
    session.generate(options, tokens.append)
    return tokens


def expected_probabilities(logits: Array, seen: Array, options: GenerateOptions) -> Array:
    """An independent account of the order: penalty, temperature, top-k, top-p, min-p."""
    scores = logits.astype(np.float64)
    seen = np.unique(seen)
    penalty = options.repetition_penalty
    scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    scores /= options.temperature
    order = np.argsort(-scores, kind="stable")
    if options.top_k:
        scores[order[options.top_k :]] = -np.inf
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if options.top_p not in (0, 1):
        better = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[better >= options.top_p]] = 0
    probabilities[probabilities < options.min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        GenerateOptions(temperature=0.3),
        GenerateOptions(temperature=0.5, top_k=6),
        GenerateOptions(temperature=0.5, top_p=0.6),
        GenerateOptions(temperature=0.5, min_p=0.2),
        GenerateOptions(temperature=0.4, repetition_penalty=1.8),
        GenerateOptions(temperature=0.7, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=1.05),
    ],
    ids=["temperature", "top-k", "top-p", "min-p", "penalty", "all"],
)
def test_draws_follow_the_distribution(session: DecoderSession, options: GenerateOptions) -> None:
    likely = int(restart(session).argmax())
    prompt = np.array([*PROMPT, likely, 7], np.int32)  # a likely token has been seen
    expected = expected_probabilities(restart(session, prompt), prompt, options)
    draws = 1500
    counts = np.zeros(CONFIG.vocab_size)
    for seed in range(draws):
        session.truncate(len(prompt) - 1)
        session.prefill([prompt[-1:]])
        (token,) = generated(session, GenerateOptions(**(vars(options) | {"max_new_tokens": 1, "seed": seed})))
        counts[token] += 1
    assert not counts[expected == 0].any()
    distance = np.abs(counts / draws - expected).sum()
    by_chance = 0.8 * np.sqrt(expected * (1 - expected) / draws).sum()  # the mean of such a sum
    assert distance < 1.6 * by_chance


def test_same_seed_gives_the_same_tokens(session: DecoderSession) -> None:
    answers = []
    for seed in (1, 1, 2**64 - 1):
        restart(session)
        answers.append(generated(session, GenerateOptions(max_new_tokens=20, temperature=1.0, seed=seed)))
    assert answers[0] == answers[1] != answers[2]


def test_temperature_zero_takes_the_largest_logit(session: DecoderSession) -> None:
    best = int(restart(session).argmax())
    assert generated(session, GenerateOptions(max_new_tokens=1, top_k=3, seed=5)) == [best]


def test_equal_logits_give_the_lowest_id(tmp_path_factory: pytest.TempPathFactory) -> None:
    weights = random_weights(CONFIG)
    weights["lm_head.weight"][:] = weights["lm_head.weight"][17]
    directory = tmp_path_factory.mktemp("equal")
    write_decoder(directory, CONFIG, weights)
    with Decoder(directory, threads=1) as decoder, decoder.session() as session:
        session.prefill([PROMPT])
        assert generated(session, GenerateOptions(max_new_tokens=1)) == [0]
        assert generated(session, GenerateOptions(max_new_tokens=1, temperature=1.0, top_k=1)) == [0]


def test_repetition_penalty_counts_prompt_and_answer(session: DecoderSession) -> None:
    restart(session)
    tokens = generated(session, GenerateOptions(max_new_tokens=60, repetition_penalty=1e6))
    assert len(set(tokens) | set(PROMPT.tolist())) == 60 + len(PROMPT)
    more = generated(session, GenerateOptions(max_new_tokens=60, repetition_penalty=1e6))
    assert not set(tokens) & set(more)


def test_each_stop_token_stops_and_stays_outside(session: DecoderSession) -> None:
    restart(session)
    tokens = generated(session, GenerateOptions(max_new_tokens=40, temperature=1.0, seed=9))
    for stop in (tokens[12], tokens[4]):
        restart(session)
        seen: list[int] = []
        options = GenerateOptions(max_new_tokens=40, temperature=1.0, seed=9, stop_tokens=(330, stop, 2**31 - 1))
        assert session.generate(options, seen.append) is StopReason.TOKEN
        assert seen == tokens[: min(tokens.index(stop), *(tokens.index(t) for t in (330,) if t in tokens), 40)]
        assert session.length == len(PROMPT) + len(seen)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("min_p", -1.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", 1e-38),
        ("repetition_penalty", 1e7),
        ("temperature", 1e7),
        ("top_k", -1),
        ("max_new_tokens", 2**32),
        ("seed", -1),
    ],
)
def test_meaningless_options_are_refused(session: DecoderSession, field: str, value: float) -> None:
    restart(session)
    with pytest.raises(InputError, match=field):
        session.generate(GenerateOptions(**{field: value}))
