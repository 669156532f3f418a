"""Whatever stands in a manifest: opening and planning succeed, or end in one Valley2Error."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import valley2_edge
from valley2_edge.bundle import open_bundle
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.errors import Valley2Error
from valley2_edge.runtime.core.memory import MemorySettings, plan_memory

NANO = Path(valley2_edge.__file__).parent / "builtin" / "valley2-nano-int4"
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**30,
    2**31,
    2**63,
    2**64,
    10**400,
    1e-300,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "a\x00b",
    "\x1b]0;title\x07",
    "\ud800",
    [],
    {},
    [[]],
    [1] * 3000,
    {"x": {"x": {}}},
)
GRAPH = ("vision/siglip.onnx", "vision/siglip.onnx.data")
ROUNDS = 400
"""Mutations of each kind."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile") / "bundle"
    shutil.copytree(NANO, directory)
    for name in GRAPH:
        (directory / name).touch()
    return directory


def good_manifest() -> dict[str, Any]:
    """The manifest of a bundle with a graph beside its towers."""
    manifest: dict[str, Any] = json.loads((NANO / MANIFEST_NAME).read_bytes())
    manifest["graphs"] = {"siglip": list(GRAPH)}
    manifest["files"] |= {name: {"size": 0, "sha256": "0" * 64} for name in GRAPH}
    return manifest


def test_the_manifest_that_is_changed_is_good(bundle: Path) -> None:
    (bundle / MANIFEST_NAME).write_text(json.dumps(good_manifest()))
    assert open_bundle(bundle, check="sizes").manifest.graphs == {"siglip": list(GRAPH)}


def try_manifest(directory: Path, content: bytes) -> None:
    (directory / MANIFEST_NAME).write_bytes(content)
    message = ""
    try:
        opened = open_bundle(directory, check="sizes")
        plan_memory(opened, [(640, 480)], MemorySettings(context_length=1024, threads=1))
    except Valley2Error as error:
        message = str(error)
        if not message:
            raise
    assert len(message) < 4000


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with every key or index in it."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def test_hostile_values_in_a_manifest(bundle: Path) -> None:
    good = good_manifest()
    chance = random.Random(17)
    for _ in range(ROUNDS):
        manifest = copy.deepcopy(good)
        for _ in range(chance.choice((1, 1, 1, 3))):
            container, key = chance.choice(list(places(manifest)))
            action = chance.randrange(6)
            if action == 0:
                del container[key]
            elif action == 1 and isinstance(container, dict):
                container[chance.choice(("x", "", "__class__", "size\n"))] = container.pop(key)
            else:
                container[key] = copy.deepcopy(chance.choice(HOSTILE))
        try_manifest(bundle, json.dumps(manifest).encode())


def test_damaged_bytes_of_a_manifest(bundle: Path) -> None:
    good = json.dumps(good_manifest()).encode()
    chance = random.Random(18)
    for _ in range(ROUNDS):
        damaged = bytearray(good)
        for _ in range(chance.choice((1, 2, 8))):
            begin = chance.randrange(len(damaged))
            piece = bytes(damaged[begin : begin + chance.randrange(1, 60)])
            place = chance.randrange(len(damaged))
            if chance.random() < 0.5:
                damaged[place] = chance.randrange(256)
            else:
                damaged[place:place] = piece
        if chance.random() < 0.1:
            del damaged[chance.randrange(len(damaged)) :]
        try_manifest(bundle, bytes(damaged))
