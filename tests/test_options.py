"""Options are stated once: their defaults, ranges and meanings are read from one place."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest

from valley2_edge.errors import InputError
from valley2_edge.options import (
    LoadOptions,
    SamplingOptions,
    SessionOptions,
    changed,
    check_names,
    picked,
    size_bytes,
)
from valley2_edge.policy import Policy

CLASSES = (LoadOptions, SessionOptions, SamplingOptions)


def test_every_option_has_a_meaning_in_whole_sentences_and_a_check() -> None:
    for options in CLASSES:
        for option in fields(options):
            meaning = option.metadata["meaning"]
            assert meaning[0].isupper() and meaning.endswith((".", ").")) and not meaning.startswith("Of "), option.name
            assert callable(option.metadata["check"]), option.name
            assert f"{option.name}: {meaning}" in str(options.__doc__)


def test_no_option_is_in_two_classes() -> None:
    names = [option.name for options in CLASSES for option in fields(options)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (LoadOptions(), {"threads": -1}, "threads is -1; it must lie between 0 and 4294967295"),
        (LoadOptions(), {"threads": 1.5}, "threads must be a whole number, not 1.5"),
        (LoadOptions(), {"isa": "sse"}, "isa is 'sse'; it must be one of auto, portable"),
        (LoadOptions(), {"memory": "much"}, "'much' is no amount of memory"),
        (LoadOptions(), {"providers": "CPU"}, "providers must be a list of names"),
        (LoadOptions(), {"keep_vision": "no"}, "keep_vision must be True or False"),
        (SessionOptions(), {"policy": "other"}, 'policy must be "hub" or "repo"'),
        (SessionOptions(), {"max_picture_pixels": 0}, "max_picture_pixels must be between 1 and 178956970, not 0"),
        (SessionOptions(), {"system": 3}, "system must be text"),
        (SamplingOptions(), {"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        (SamplingOptions(), {"seed": 2**64}, f"seed must be at most {2**64 - 1}, not {2**64}"),
        (SamplingOptions(), {"top_p": 7}, "top_p must be between 0 and 1, not 7"),
        (SamplingOptions(), {"temprature": 1}, "There is no option temprature; did you mean temperature"),
        (SamplingOptions(), {"x": 1}, "There is no option x; the options are max_new_tokens"),
    ],
)
def test_what_is_not_acceptable_is_refused(options: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(options, changes)


def test_changes_leave_the_rest_as_it_is() -> None:
    once = SamplingOptions(temperature=0.5)
    assert changed(once, {"seed": 2**64 - 1}) == SamplingOptions(temperature=0.5, seed=2**64 - 1)
    assert changed(once, {}) is once


def test_other_arguments_of_a_call_may_have_been_meant() -> None:
    with pytest.raises(InputError, match="did you mean frames"):
        check_names({"frame": 1}, SamplingOptions, others=("frames",))


def test_fields_are_picked_by_their_names() -> None:
    session = SessionOptions(eagle_preset="fast", think=True)
    assert picked(Policy, session) == Policy(eagle_preset="fast")
    assert picked(Policy, session, eagle=False) == Policy(eagle_preset="fast", eagle=False)


def test_sizes_are_numbers_or_words() -> None:
    assert [size_bytes(size) for size in ("6GiB", 6 << 30, 0, None)] == [6 << 30, 6 << 30, 0, 0]


def test_options_import_nothing_heavy() -> None:
    code = "import sys, valley2_edge.options; print(*{'numpy', 'ctypes', 'cffi', 'pydantic'} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
