"""Graphs that were made from towers: found by the tower's hash, whole or absent, and never somebody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BundleError, EngineError
from valley2_edge.runtime.onnx.graph_cache import GraphCache, GraphKey
from valley2_edge.runtime.onnx.graph_files import graph_files, graph_key, graph_to_open

TOWER = "ab" * 32
KEY = GraphKey("siglip", TOWER)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def make(key: GraphKey = KEY, weights: bytes = b"weights") -> Path:
    cache = GraphCache()
    with cache.making(key) as folder:
        (folder / f"{key.component}.onnx").write_bytes(b"graph")
        (folder / f"{key.component}.onnx.data").write_bytes(weights)
    return cache.directory / key.folder / f"{key.component}.onnx"


def bundle(directory: Path, graphs: dict[str, list[str]] | None = None) -> Bundle:
    """As far as graphs are concerned: a SigLIP tower, and no Eagle."""
    files = {"vision/siglip.safetensors": SimpleNamespace(sha256=TOWER)}
    listed = {**files, **{name: None for names in (graphs or {}).values() for name in names}}
    siglip = SimpleNamespace(files=["vision/siglip.safetensors"])
    manifest = SimpleNamespace(siglip=siglip, eagle=None, files=listed, graphs=graphs)
    return Bundle(directory, cast(Any, manifest))


def test_graph_is_found_by_the_hash_of_its_tower(tmp_path: Path) -> None:
    assert graph_files(bundle(tmp_path), "siglip") is None
    path = make()
    assert graph_files(bundle(tmp_path), "siglip") == path
    assert path.read_bytes() == b"graph"
    assert graph_key(bundle(tmp_path), "eagle") is None and graph_files(bundle(tmp_path), "eagle") is None


def test_bundles_own_graph_comes_first(tmp_path: Path) -> None:
    make()
    own = bundle(tmp_path, {"siglip": ["vision/siglip.onnx", "vision/siglip.onnx.data"]})
    assert graph_files(own, "siglip") == tmp_path / "vision" / "siglip.onnx"
    with graph_to_open(own, "siglip") as path:
        assert path == tmp_path / "vision" / "siglip.onnx"


def test_missing_graph_says_how_to_make_it(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=f"`valley2-edge engines onnx {tmp_path}`"),
        graph_to_open(bundle(tmp_path), "siglip"),
    ):
        pass


def test_graph_that_changes_while_it_is_opened_is_refused(tmp_path: Path) -> None:
    make()
    with (
        pytest.raises(BundleError, match="changed while it was opened"),
        graph_to_open(bundle(tmp_path), "siglip") as path,
    ):
        path.write_bytes(b"other")


def note_changed(folder: Path, **changes: object) -> None:
    note = folder / "graph.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), **changes}))


def linked(path: Path) -> None:
    target = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(target)


HARMS: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda folder: (folder / "siglip.onnx.data").write_bytes(b"Weights"),
    "longer weights": lambda folder: (folder / "siglip.onnx.data").write_bytes(b"weights?"),
    "no weights": lambda folder: (folder / "siglip.onnx.data").unlink(),
    "weights behind a link": lambda folder: linked(folder / "siglip.onnx.data"),
    "others may write": lambda folder: (folder / "siglip.onnx").chmod(0o666),
    "pipe": lambda folder: ((folder / "siglip.onnx").unlink(), os.mkfifo(folder / "siglip.onnx")),
    "no note": lambda folder: (folder / "graph.json").unlink(),
    "broken note": lambda folder: (folder / "graph.json").write_text("{"),
    "note of another type": lambda folder: note_changed(folder, files=[1]),
    "note of another tower": lambda folder: note_changed(folder, tower=TOWER[:16] + "0" * 48),
    "note of no component": lambda folder: note_changed(folder, component="siglop"),
    "note that leads elsewhere": lambda folder: note_changed(folder, files={"../siglip.onnx": {"size": 5}}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_graph_that_is_not_as_it_was_made_is_absent(harm: str) -> None:
    folder = make().parent
    HARMS[harm](folder)
    assert GraphCache().find(KEY) is None
    assert make() == folder / "siglip.onnx"
    assert GraphCache().find(KEY) is not None


def test_graph_that_fails_while_it_is_made_leaves_nothing(data: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "siglip.onnx").write_bytes(b"half")
        raise RuntimeError

    make()
    with pytest.raises(RuntimeError), GraphCache().making(GraphKey("siglip", TOWER, 2)) as folder:
        fail(folder)
    assert [path.name for path in (data / "graphs").iterdir()] == [KEY.folder]


def test_two_processes_may_make_the_same_graph() -> None:
    with GraphCache().making(KEY) as folder:
        (folder / "siglip.onnx").write_bytes(b"slow")
        path = make()
    assert GraphCache().find(KEY) is not None and path.read_bytes() in (b"graph", b"slow")


def test_newer_writer_replaces_what_an_older_one_made() -> None:
    make(GraphKey("siglip", TOWER, 0))
    make(GraphKey("siglip", "cd" * 32, 0))
    make()
    towers = [(kept.key.tower, kept.key.writer) for kept in GraphCache().entries()]
    assert towers == [(TOWER, KEY.writer), ("cd" * 32, 0)]


def test_files_are_for_the_user_alone_whatever_the_mask() -> None:
    before = os.umask(0)
    try:
        folder = make().parent
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, folder / "siglip.onnx")] == [
        0o700,
        0o700,
        0o600,
    ]
    assert GraphCache().find(KEY) is not None


def test_clear_counts_what_it_removes(data: Path) -> None:
    make()
    files, size = GraphCache().clear()
    assert files == 3 and size > len(b"graph" + b"weights") and not (data / "graphs").exists()
