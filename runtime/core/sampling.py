"""Seeds of an answer whose tokens are chosen by one call of the core each."""

from __future__ import annotations

import secrets

_SEED_LIMIT = 2**64
_SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15


def chosen_seed(seed: int | None) -> int:
    """The seed that a caller chose, or a fresh one."""
    return secrets.randbits(64) if seed is None else seed


def seed_of_step(seed: int, step: int) -> int:
    """The seed with which the core chooses token number `step` of an answer, in a call of its own.

    It is the state that the core's generator, a SplitMix64 of one number a token, has after `step` tokens: the answer
    is the one that a single call would give.
    """
    return (seed + step * _SPLITMIX_INCREMENT) % _SEED_LIMIT
