"""A bundle appears whole or not at all, and finished work survives a kill."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_manifest import plain_manifest

from valley2_edge.bundle import read_manifest
from valley2_edge.errors import BudgetError, ExportError, InputError
from valley2_edge.export.bundle.writer import BundleWriter

Make = Callable[[Path], dict[str, Any]]


def _writes(name: str, content: bytes = b"content", facts: dict[str, Any] | None = None) -> Make:
    def make(directory: Path) -> dict[str, Any]:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return facts or {}

    return make


def _must_not_run(directory: Path) -> dict[str, Any]:
    raise AssertionError("the component was made again")


def _kill_after(output: Path, fingerprint: str, components: dict[str, Make]) -> None:
    """Leaves the directory as a killed process does: `__exit__` never runs."""
    writer = BundleWriter(output, fingerprint).__enter__()
    for name, make in components.items():
        writer.component(name, make)
    del writer
    gc.collect()  # so that its lock is free, as the system frees that of a killed process


def _fail(output: Path, error: BaseException, overwrite: bool = False) -> None:
    """An export that finishes one component and fails in the next."""

    def make(directory: Path) -> dict[str, Any]:
        (directory / "b.bin").write_bytes(b"part")
        raise error

    with BundleWriter(output, "f", overwrite=overwrite) as writer:
        writer.component("a", _writes("a.bin"))
        writer.component("b", make)


def _publish(output: Path, content: bytes, overwrite: bool = False, checkpoint: str = "tiny") -> None:
    with BundleWriter(output, "f", overwrite=overwrite) as writer:
        writer.component("a", _writes("a.bin", content))
        writer.publish(plain_manifest(writer, checkpoint))


def test_the_output_appears_only_when_published(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with BundleWriter(output, "f") as writer:
        writer.component("a", _writes("vision/a.bin"))
        assert not output.exists()
        writer.publish(plain_manifest(writer))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert sorted(path.name for path in output.rglob("*") if path.is_file()) == ["a.bin", "valley2.json"]


def test_every_file_is_listed_with_its_size_and_hash(tmp_path: Path) -> None:
    _publish(tmp_path / "bundle", b"abc")
    files = read_manifest(tmp_path / "bundle").files
    assert list(files) == ["a.bin"]
    assert files["a.bin"].size == 3
    assert files["a.bin"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_finished_component_is_not_made_twice(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _kill_after(output, "f", {"a": _writes("a.bin", facts={"error": 0.5})})
    with BundleWriter(output, "f") as writer:
        assert writer.finished_bytes == 7
        assert writer.component("a", _must_not_run) == {"error": 0.5}
        assert list(writer.files()) == ["a.bin"]


def test_another_fingerprint_discards_everything(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _kill_after(output, "old", {"a": _writes("a.bin", b"old")})
    with BundleWriter(output, "new") as writer:
        assert list(writer.directory.iterdir()) == []
        writer.component("a", _writes("a.bin", b"new"))
        assert (writer.directory / "a.bin").read_bytes() == b"new"


def test_a_half_written_component_is_removed_and_made_again(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _kill_after(output, "f", {"a": _writes("a.bin")})
    _writes("b.bin", b"half")(output.with_name(".bundle.partial"))
    with BundleWriter(output, "f") as writer:
        assert not (writer.directory / "b.bin").exists()
        writer.component("b", _writes("b.bin", b"whole"))
        assert list(writer.files()) == ["a.bin", "b.bin"]


def test_a_component_that_changed_since_is_made_again(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _kill_after(output, "f", {"a": _writes("a.bin", b"right"), "b": _writes("b.bin")})
    (output.with_name(".bundle.partial") / "a.bin").write_bytes(b"wrong")
    with BundleWriter(output, "f") as writer:
        writer.component("a", _writes("a.bin", b"right"))
        writer.component("b", _must_not_run)
        assert (writer.directory / "a.bin").read_bytes() == b"right"


def test_a_broken_progress_file_means_a_fresh_start(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _kill_after(output, "f", {"a": _writes("a.bin")})
    (output.with_name(".bundle.partial") / "progress.json").write_text('{"fingerprint": "f", "compo')
    with BundleWriter(output, "f") as writer:
        assert list(writer.directory.iterdir()) == []


def test_an_interrupt_keeps_and_an_error_removes_what_was_made(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    partial = tmp_path / ".bundle.partial"
    for error, stays in ((KeyboardInterrupt(), True), (InputError("no"), False)):
        with pytest.raises(type(error)):
            _fail(output, error)
        assert partial.exists() is stays


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with pytest.raises(BudgetError, match=r"the disk of .* is full: nothing was kept"):
        _fail(tmp_path / "bundle", OSError(number, os.strerror(number)))
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    _kill_after(tmp_path / "bundle", "f", {"a": _writes("a.bin", b"x" * 100)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 2 * 10**9))
    with BundleWriter(tmp_path / "bundle", "f") as writer:
        writer.check_space(2 * 10**9 + 100)  # a hundred bytes are there already
    with (
        pytest.raises(BudgetError, match=r"needs 4\.7 GiB more .* has 1\.9 GiB free"),
        BundleWriter(tmp_path / "bundle", "f") as writer,
    ):
        writer.check_space(5 * 10**9 + 100)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_left_alone(tmp_path: Path) -> None:
    _publish(tmp_path / "bundle", b"first")
    with pytest.raises(ExportError, match=r"bundle exists: .*--overwrite"):
        _publish(tmp_path / "bundle", b"second")
    assert (tmp_path / "bundle" / "a.bin").read_bytes() == b"first"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    precious = tmp_path / "bundle"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="is not a bundle"):
        _publish(precious, b"", overwrite=overwrite)
    assert (precious / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_overwrite_replaces_a_bundle(tmp_path: Path) -> None:
    _publish(tmp_path / "bundle", b"first")
    _publish(tmp_path / "bundle", b"second", overwrite=True)
    assert (tmp_path / "bundle" / "a.bin").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_replacement_leaves_the_old_bundle(tmp_path: Path) -> None:
    _publish(tmp_path / "bundle", b"first")
    with pytest.raises(InputError):
        _fail(tmp_path / "bundle", InputError("no"), overwrite=True)
    assert (tmp_path / "bundle" / "a.bin").read_bytes() == b"first"


def test_a_replacement_that_was_killed_halfway_is_undone(tmp_path: Path) -> None:
    _publish(tmp_path / "bundle", b"first")
    (tmp_path / "bundle").rename(tmp_path / ".bundle.replaced")
    with pytest.raises(ExportError, match="exists"):
        _publish(tmp_path / "bundle", b"second")
    assert (tmp_path / "bundle" / "a.bin").read_bytes() == b"first"


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"), BundleWriter(tmp_path / "file" / "bundle", "f"):
        pass
