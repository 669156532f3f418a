"""The core's choice for logits that another engine computed."""

from __future__ import annotations

import numpy as np
import pytest

from valley2_edge.errors import InputError, NumericError
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import array_pointer
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.library import check, library

LOGITS = np.array([0.5, 3.0, 2.0, -1.0], np.float32)


def choose(seen: list[int], options: GenerateOptions, logits: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    ids, token = np.array(seen, np.int32), ffi.new("int32_t *", -7)
    check(
        library().v2e_choose_token(
            array_pointer(logits), len(logits), array_pointer(ids), len(ids), options.struct(), token
        )
    )
    return int(token[0])


def test_greedy_takes_the_largest_and_the_penalty_what_was_not_seen() -> None:
    assert choose([], GenerateOptions(), LOGITS) == 1
    assert choose([1, 1], GenerateOptions(repetition_penalty=2.0), LOGITS) == 2
    assert choose([0], GenerateOptions(repetition_penalty=2.0), LOGITS) == 1


def test_same_seed_makes_the_same_choice_and_others_differ() -> None:
    chosen = [choose([], GenerateOptions(temperature=2.0, seed=seed), LOGITS) for seed in range(40)]
    assert chosen == [choose([], GenerateOptions(temperature=2.0, seed=seed), LOGITS) for seed in range(40)]
    assert len(set(chosen)) > 1
    assert {choose([], GenerateOptions(temperature=2.0, top_k=1, seed=seed), LOGITS) for seed in range(9)} == {1}


def test_tokens_and_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="outside the vocabulary of 4"):
        choose([4], GenerateOptions(), LOGITS)
    with pytest.raises(InputError, match="outside the vocabulary of 4"):
        choose([-1], GenerateOptions(), LOGITS)
    with pytest.raises(InputError, match="vocabulary_size is 0, but must be from 1"):
        choose([], GenerateOptions(), LOGITS[:0])
    with pytest.raises(InputError, match="top_p"):
        choose([], GenerateOptions(temperature=1.0, top_p=1.5), LOGITS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused_in_one_sentence(bad: float, place: int, temperature: float) -> None:
    logits = LOGITS.copy()
    logits[place] = bad
    with pytest.raises(NumericError, match="NaN or an infinity"):
        choose([], GenerateOptions(temperature=temperature, top_p=0.9), logits)


def test_penalties_that_no_float_holds_are_refused_and_the_largest_logits_are_chosen_from() -> None:
    with pytest.raises(InputError, match="repetition_penalty is 1e-38"):
        choose([1], GenerateOptions(temperature=1.0, top_p=0.9, repetition_penalty=1e-38), LOGITS)
    largest = float(np.finfo(np.float32).max)
    logits = np.array([largest, -largest, 0, 1], np.float32)
    for penalty in (1e-6, 1e6):
        for temperature in (1e-38, 1.0, 1e6):
            options = GenerateOptions(temperature=temperature, top_p=0.9, repetition_penalty=penalty)
            assert choose([0, 1], options, logits) in range(4)
