"""How an answer's tokens are chosen."""

from __future__ import annotations

import numbers
import secrets
from dataclasses import dataclass

from valley2_edge.errors import OptionError
from valley2_edge.runtime.core.library import SPECULATION_NUMBERS
from valley2_edge.runtime.core.native_call import number_of

_SEED_LIMIT = 2**64
_SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15
_MAX_NEW_TOKENS_LIMIT = 2**32 - 1
_LARGEST = 1_000_000
"""The core's bound of a temperature, of a repetition penalty and of its inverse."""


@dataclass(frozen=True)
class Sampling:
    """The choices of one answer; the defaults are the reference's greedy decoding."""

    max_new_tokens: int = 1024
    temperature: float = 0.0
    """0: greedy; at most 1e6."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    """0 or 1: off."""
    min_p: float = 0.0
    """0: off."""
    repetition_penalty: float = 1.0
    """1: off; 1e-6 to 1e6, over the session's token ids, prompts and answers."""
    seed: int | None = None
    """None: another one for every answer; statistics say which."""
    speculation: str = "auto"
    """Drafts by prompt lookup: "auto", "off" or "always"; they change how long an answer takes and nothing else."""

    def __post_init__(self) -> None:
        check_whole("max_new_tokens", self.max_new_tokens, 1, _MAX_NEW_TOKENS_LIMIT)
        _check("temperature", self.temperature, 0, _LARGEST)
        check_whole("top_k", self.top_k, 0, _MAX_NEW_TOKENS_LIMIT)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        if self.repetition_penalty != 0:  # which is off as well
            _check("repetition_penalty", self.repetition_penalty, 1 / _LARGEST, _LARGEST)
        if self.seed is not None:
            check_whole("seed", self.seed, 0, _SEED_LIMIT - 1)
        number_of("speculation", self.speculation, SPECULATION_NUMBERS)

    def chosen_seed(self) -> int:
        """The seed, or a fresh one."""
        return secrets.randbits(64) if self.seed is None else self.seed


def seed_of_step(seed: int, step: int) -> int:
    """The seed with which the core chooses token number `step` of an answer, in a call of its own.

    It is the state that the core's generator, a SplitMix64 of one number a token, has after `step` tokens: the answer
    is the one that a single call would give.
    """
    return (seed + step * _SPLITMIX_INCREMENT) % _SEED_LIMIT


def _check(name: str, value: float, smallest: float, largest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionError(name, f"must be a number, not {value!r}.")
    if not smallest <= value <= largest:
        bounds = f"between {smallest} and {largest}" if largest < _LARGEST else f"at least {smallest}"
        if value > largest >= _LARGEST:
            bounds = f"at most {largest}"
        raise OptionError(name, f"must be {bounds}, not {value}.")


def check_whole(name: str, value: int, smallest: int, largest: int) -> None:
    """Checks a whole number that a caller gave.

    Args:
        name: Of the keyword.
        value: What the caller gave.
        smallest: Least value.
        largest: Greatest value.

    Raises:
        OptionError: It is out of range, or no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise OptionError(name, f"must be a whole number, not {value!r}.")
    _check(name, value, smallest, largest)
