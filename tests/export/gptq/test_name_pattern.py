"""Patterns of layer names, against Python's own regular expressions."""

from __future__ import annotations

import random
import re

import pytest

from valley2_edge.export.gptq.name_pattern import NamePattern

NAMES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 9, 10, 18, 27)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
] + ["lm_head", "", "model", "a\nb"]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*",
        r"",
        r"lm_head",
        r"^lm_head$",
        r".*\.18\..*gate.*",
        r".*\.(?:1[0-9]|2[0-7])\..*",
        r"model\.layers\.[0-3]\.mlp\.(gate|up)_proj",
        r".*down.*",
        r"model.layers.\d+.mlp",
        r".*(self_attn|mlp)\.(q|k|v|o|up)_proj$",
        r"[^.]*$",
        r"[a-z_]+\.?",
        r"(a|b|model)*\.",
        r".*?\.9\.",
        r"^(.*)\.mlp",
        r"(((m)o)d)el",
        r"[\d.-]*$",
        r"a.b",
        r"x||y",
    ],
)
def test_matches_as_python_does(pattern: str) -> None:
    ours = NamePattern(pattern)
    for name in NAMES:
        assert ours.matches(name) == bool(re.match(pattern, name)), name


def test_random_patterns_match_as_python_does() -> None:
    rng = random.Random(0)
    pieces = [
        "a",
        "b",
        "ab",
        r"\.",
        ".",
        r"\d",
        "[ab]",
        "[^a]",
        "a*",
        "b+",
        "a?",
        "(a|b)",
        "(ab|b)*",
        "(a|ba)+",
        "^",
        "$",
        "|",
    ]
    names = ["".join(rng.choices("ab.1", k=rng.randrange(7))) for _ in range(40)]
    for _ in range(400):
        pattern = "".join(rng.choices(pieces, k=rng.randrange(1, 6)))
        ours = NamePattern(pattern)
        for name in names:
            assert ours.matches(name) == bool(re.match(pattern, name)), (pattern, name)


@pytest.mark.parametrize("pattern", [r"((\w|\.)+)+$!", r"(a*)*$!", r"((a|a)*)*b", r"(.*.*.*.*.*.*)*!", r"(a|aa)+$!"])
def test_patterns_that_python_tries_forever_answer(pattern: str) -> None:
    assert not NamePattern(pattern).matches("a" * 200)
    assert not NamePattern(pattern).matches("model.layers.0.self_attn.q_proj" * 4)


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "[", "[]", "[a", "[b-a]", "*", "a**", "a*+", "a{2}", r"\1", r"(a)\1", r"\b", "(?i)a",
        "(?=a)", "(?<n>a)", "\\", "a" * 513, "((((((a))))))", "+:a", "?",
    ],
)  # fmt: skip
def test_everything_else_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are many
        NamePattern(pattern)
