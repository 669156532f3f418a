"""Which files of the C++ core may include which: folders build on those below them, and no units include each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "runtime" / "native"
SUFFIXES = {".cpp", ".hpp", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]*)"', re.MULTILINE)
PUBLIC = {"valley2.h", "valley2_parts.h", "valley2_model_parts.h"}
"""Headers of include/, which everything may know."""

ALLOWED: Mapping[str, set[str]] = {
    "base": set(),
    "bundle": {"base"},
    "cpu": {"base"},
    "cpu/simd": {"base"},
    "cpu/probe": {"base", "cpu", "cpu/simd"},
    "cpu/attention": {"base", "cpu", "cpu/simd"},
    "cpu/elementwise": {"base", "cpu", "cpu/simd", "cpu/attention"},
    "cpu/linear": {"base", "bundle", "cpu", "cpu/simd", "cpu/elementwise"},
    "cpu/vision": {"base", "cpu", "cpu/simd"},
    "cpu/rounding": {"base", "cpu", "cpu/simd"},
    "picture": {"base"},
    "picture/decode": {"base", "picture"},
    "text": {"base"},
    "vision": {"base", "bundle", "cpu", "cpu/elementwise", "cpu/vision", "picture"},
    "decoder": {"base", "bundle", "cpu", "cpu/attention", "cpu/elementwise", "cpu/linear"},
    "generation": {"base", "bundle", "decoder"},
    "rounding": {"base", "cpu", "cpu/rounding"},
    "plan": {"base", "bundle", "picture", "vision", "decoder", "generation"},
    "cuda/kernels": set(),
    "cuda": {"base", "bundle", "cpu/attention", "decoder", "cuda/kernels"},
    "conversation": {"base", "bundle", "picture", "text", "vision", "decoder", "generation", "plan"},
    "api": {
        "base",
        "bundle",
        "cpu/probe",
        "picture",
        "picture/decode",
        "text",
        "vision",
        "decoder",
        "generation",
        "rounding",
        "plan",
        "conversation",
        "cuda",
    },
}
"""The folders that a folder may include from, beside itself. Each stands below those that it is named in."""


def included(text: str) -> list[str]:
    """The names between quotes that a source includes, in their order."""
    return INCLUDE.findall(text)


def find_faults(sources: Mapping[str, str], allowed: Mapping[str, set[str]]) -> list[str]:
    """The includes that break a rule.

    Args:
        sources: The text of every file, by its path as others include it.
        allowed: The folders that a folder may include from, beside itself, in an order in which each comes after
            those that it includes from.

    Returns:
        A sentence for each fault; none when every rule is kept.
    """
    faults = [*upward_rules(allowed)]
    graph: dict[str, list[str]] = {}
    """The units that a unit includes; a header and the source beside it are one."""
    for path, text in sources.items():
        folder = folder_of(path)
        if folder not in allowed:
            faults.append(f"{path} lies in a folder that the rules do not name")
            continue
        unit = unit_of(path)
        graph.setdefault(unit, [])
        for name in included(text):
            if name in PUBLIC:
                continue
            if name not in sources:
                faults.append(f"{path} includes {name}, which is no full path of a file")
                continue
            if unit_of(name) != unit:
                graph[unit].append(unit_of(name))
            if folder_of(name) != folder and folder_of(name) not in allowed[folder]:
                faults.append(f"{path} includes {name}, but {folder} may not know {folder_of(name)}")
    return faults + [f"{' -> '.join(circle)} is a circle" for circle in circles(graph)]


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def unit_of(path: str) -> str:
    return path.rpartition(".")[0]


def upward_rules(allowed: Mapping[str, set[str]]) -> Iterator[str]:
    """The rules that let a folder include from one that does not stand below it."""
    below: set[str] = set()
    for folder, known in allowed.items():
        for other in sorted(known - below):
            yield f"the rules let {folder} include from {other}, which is not below it"
        below.add(folder)


def circles(graph: Mapping[str, list[str]]) -> list[list[str]]:
    """The circles that a walk along the includes meets, each from a unit back to itself."""
    found: list[list[str]] = []
    finished: set[str] = set()

    def walk(path: str, trail: list[str]) -> None:
        if path in trail:
            found.append([*trail[trail.index(path) :], path])
            return
        if path in finished:
            return
        for name in graph.get(path, ()):
            walk(name, [*trail, path])
        finished.add(path)

    for path in graph:
        walk(path, [])
    return found


def core_sources() -> dict[str, str]:
    """The sources of src/ and cuda/, by the path that includes them."""
    sources = {}
    for folder, root in (("src", NATIVE / "src"), ("cuda", NATIVE)):
        for path in sorted((NATIVE / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                sources[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    return sources


def test_includes_of_the_core_keep_the_rules() -> None:
    sources = core_sources()
    assert len(sources) > 100
    assert find_faults(sources, ALLOWED) == []


def test_every_rule_is_needed() -> None:
    sources = core_sources()
    used = {(folder_of(path), folder_of(name)) for path, text in sources.items() for name in included(text)}
    assert [(folder, other) for folder in ALLOWED for other in ALLOWED[folder] if (folder, other) not in used] == []


MADE_UP_RULES = {"low": set(), "high": {"low"}}
"""Two folders, one above the other."""


def test_an_include_from_below_is_allowed() -> None:
    sources = {
        "low/a.hpp": '#include "valley2.h"\n#include <vector>\n',
        "low/b.hpp": '#include "low/a.hpp"\n',
        "high/c.cpp": '  #  include "low/a.hpp"\n// #include "high/none.hpp"\n',
    }
    assert find_faults(sources, MADE_UP_RULES) == []


def test_an_include_from_above_is_a_fault() -> None:
    sources = {"low/a.cpp": '#include "high/b.hpp"\n', "high/b.hpp": ""}
    assert find_faults(sources, MADE_UP_RULES) == ["low/a.cpp includes high/b.hpp, but low may not know high"]


def test_a_circle_is_a_fault_even_within_a_folder() -> None:
    sources = {
        "low/a.hpp": '#include "low/b.hpp"\n',
        "low/b.hpp": '#include "low/c.hpp"\n',
        "low/c.hpp": '#include "low/a.hpp"\n',
    }
    assert find_faults(sources, MADE_UP_RULES) == ["low/a -> low/b -> low/c -> low/a is a circle"]


def test_a_circle_through_the_source_beside_a_header_is_a_fault() -> None:
    sources = {
        "low/a.hpp": "",
        "low/a.cpp": '#include "low/a.hpp"\n#include "low/b.hpp"\n',
        "low/b.hpp": '#include "low/a.hpp"\n',
    }
    assert find_faults(sources, MADE_UP_RULES) == ["low/a -> low/b -> low/a is a circle"]


def test_a_name_without_its_folder_is_a_fault() -> None:
    sources = {"low/a.hpp": "", "low/b.cpp": '#include "a.hpp"\n'}
    assert find_faults(sources, MADE_UP_RULES) == ["low/b.cpp includes a.hpp, which is no full path of a file"]


def test_a_folder_without_a_rule_is_a_fault() -> None:
    assert find_faults({"new/a.hpp": ""}, MADE_UP_RULES) == ["new/a.hpp lies in a folder that the rules do not name"]


def test_rules_that_point_upward_are_a_fault() -> None:
    rules = {"low": {"high"}, "high": {"low"}}
    assert find_faults({}, rules) == ["the rules let low include from high, which is not below it"]
