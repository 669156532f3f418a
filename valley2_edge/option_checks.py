"""Checks of single options, whose refusals are sentences that name the option."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from valley2_edge.errors import OptionError

LARGEST_UINT32 = 2**32 - 1
LARGEST_UINT64 = 2**64 - 1
LARGEST_FACTOR = 1_000_000
"""The greatest temperature, the greatest repetition penalty, and the inverse of the least one."""
_SELDOM_MET = (LARGEST_FACTOR, LARGEST_UINT32, LARGEST_UINT64)
"""Upper limits that a refusal mentions only to those who exceed them."""


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_whole(name: str, value: Any, smallest: int, largest: int) -> None:
    """Checks that an option is a whole number within a range.

    Args:
        name: The option's name, with underscores.
        value: What the caller gave.
        smallest: The least value that is acceptable.
        largest: The greatest value that is acceptable.

    Raises:
        OptionError: The value is out of range, or no whole number.
    """
    if not _is(value, numbers.Integral):
        raise OptionError(name, f"must be a whole number, not {value!r}.")
    check_real(name, value, smallest, largest)


def check_real(name: str, value: Any, smallest: float, largest: float) -> None:
    """Checks that an option is a number within a range; as `check_whole`."""
    if not _is(value, numbers.Real):
        raise OptionError(name, f"must be a number, not {value!r}.")
    if smallest <= value <= largest:
        return
    if largest not in _SELDOM_MET:
        bounds = f"between {smallest} and {largest}"
    else:
        bounds = f"at most {largest}" if value > largest else f"at least {smallest}"
    raise OptionError(name, f"must be {bounds}, not {value}.")


def check_unsigned(name: str, value: Any, largest: int = LARGEST_UINT32) -> None:
    """Checks that an option fits into an unsigned type of the native core, which would cut it off without a word.

    Raises:
        OptionError: The value does not fit, or is no whole number.
    """
    if not _is(value, numbers.Integral):
        raise OptionError(name, f"must be a whole number, not {value!r}.")
    if not 0 <= value <= largest:
        raise OptionError(name, f"is {value}; it must lie between 0 and {largest}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Checks that an option is one of a few words.

    Raises:
        OptionError: The option has no such value.
    """
    if value not in choices:
        raise OptionError(name, f"is {value!r}; it must be one of {', '.join(choices)}.")
