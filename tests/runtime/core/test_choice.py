"""Which token is chosen from given logits, which a backend makes up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from backend_decoders import CONFIG, Fixed, write_bundle

from valley2_edge.errors import InputError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions

LOGITS = (0.5, 3.0, 2.0, -1.0)
FILLER = 300
"""A token that is never chosen."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("choice") / "bundle")


def choose(directory: Path, seen: list[int], options: list[GenerateOptions], first: tuple[float, ...]) -> list[int]:
    """The token that each of the options chooses behind a prompt, when the first tokens have these logits."""
    logits = np.full(CONFIG.vocab_size, -1e30, np.float32)
    logits[: len(first)] = first
    chosen: list[int] = []
    with Decoder(directory, backend=Fixed(logits)) as decoder:
        for one in options:
            with decoder.session() as session:
                session.prefill([np.array([FILLER, *seen], np.int32)])
                session.generate(GenerateOptions(**{**vars(one), "max_new_tokens": 1}), chosen.append)
    return chosen


def test_greedy_takes_the_largest_and_the_penalty_what_was_not_seen(directory: Path) -> None:
    penalty = GenerateOptions(repetition_penalty=2.0)
    assert choose(directory, [], [GenerateOptions()], LOGITS) == [1]
    assert choose(directory, [1, 1], [penalty], LOGITS) == [2]
    assert choose(directory, [0], [penalty], LOGITS) == [1]


def test_same_seed_makes_the_same_choice_and_others_differ(directory: Path) -> None:
    options = [GenerateOptions(temperature=2.0, seed=seed) for seed in range(40)]
    chosen = choose(directory, [], options, LOGITS)
    assert chosen == choose(directory, [], options, LOGITS)
    assert len(set(chosen)) > 1 and set(chosen) <= set(range(4))
    largest = [GenerateOptions(temperature=2.0, top_k=1, seed=seed) for seed in range(9)]
    assert set(choose(directory, [], largest, LOGITS)) == {1}


def test_options_that_mean_nothing_are_refused(directory: Path) -> None:
    with pytest.raises(InputError, match="top_p"):
        choose(directory, [], [GenerateOptions(temperature=1.0, top_p=1.5)], LOGITS)
    tiny = GenerateOptions(temperature=1.0, top_p=0.9, repetition_penalty=1e-38)
    with pytest.raises(InputError, match="repetition_penalty is 1e-38"):
        choose(directory, [1], [tiny], LOGITS)


def test_largest_logits_are_chosen_from_with_any_penalty_and_temperature(directory: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    options = [
        GenerateOptions(temperature=temperature, top_k=4, top_p=0.9, repetition_penalty=penalty)
        for penalty in (1e-6, 1e6)
        for temperature in (1e-38, 1.0, 1e6)
    ]
    chosen = choose(directory, [0, 1], options, (largest, -largest, 0, 1))
    assert all(0 <= token < CONFIG.vocab_size for token in chosen)
