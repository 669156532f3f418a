"""A bundle is checked wholly before anything of it is used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from plain_bundle import DAMAGED_EAGLE, FILES, with_file, write_manifest

from valley2_edge.bundle import open_bundle, read_manifest
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.errors import BundleError
from valley2_edge.runtime.core.memory import MemorySettings, plan_memory


def test_good_bundle_opens(directory: Path) -> None:
    bundle = open_bundle(directory)
    assert bundle.directory == directory
    assert bundle.manifest.decoder.precision == "int4"
    assert bundle.size == sum(len(data) for data in FILES.values())
    assert bundle.path("vision/siglip.safetensors").read_bytes() == FILES["vision/siglip.safetensors"]


def test_unlisted_name_has_no_path(directory: Path) -> None:
    (directory / "other").write_text("not listed")
    with pytest.raises(BundleError, match="no file other"):
        open_bundle(directory).path("other")


def test_second_opening_hashes_nothing(directory: Path, hashed: list[str]) -> None:
    open_bundle(directory)
    assert len(hashed) == len(FILES)
    open_bundle(directory)
    assert len(hashed) == len(FILES)


def test_full_check_hashes_always(directory: Path, hashed: list[str]) -> None:
    open_bundle(directory, check="full")
    open_bundle(directory, check="full")
    assert len(hashed) == 2 * len(FILES)


def test_sizes_hashes_nothing_but_misses_no_file(directory: Path, hashed: list[str]) -> None:
    open_bundle(directory, check="sizes")
    assert hashed == []
    (directory / "vision/siglip.safetensors").unlink()
    with pytest.raises(BundleError, match="missing"):
        open_bundle(directory, check="sizes")


def test_flipped_byte_is_found_after_a_good_opening(directory: Path) -> None:
    open_bundle(directory)
    file = directory / "decoder/decoder.safetensors"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"decoder\.safetensors is damaged"):
        open_bundle(directory)


def test_flipped_byte_with_the_old_time_is_found(directory: Path) -> None:
    open_bundle(directory)
    file = directory / "vision/eagle.safetensors"
    before = file.stat()
    file.write_bytes(DAMAGED_EAGLE)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match=r"eagle\.safetensors is damaged"):
        open_bundle(directory)


def test_damaged_file_is_not_remembered_as_good(directory: Path) -> None:
    (directory / "vision/eagle.safetensors").write_bytes(DAMAGED_EAGLE)
    for _ in range(2):
        with pytest.raises(BundleError, match="damaged"):
            open_bundle(directory)


def test_what_was_checked_before_a_damaged_file_stays_remembered(directory: Path, hashed: list[str]) -> None:
    (directory / "tokenizer/tokenizer.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(directory)
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(directory)
    assert hashed.count("siglip.safetensors") == 1
    assert hashed.count("tokenizer.json") == 2


def test_progress_ends_at_the_total(directory: Path) -> None:
    calls: list[tuple[int, int]] = []
    open_bundle(directory, progress=lambda done, total: calls.append((done, total)))
    total = sum(len(data) for data in FILES.values())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("missing", sorted(FILES))
def test_missing_file_is_named(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(BundleError, match=f"{missing} is missing"):
        open_bundle(directory)


def test_wrong_size_is_named(directory: Path) -> None:
    (directory / "vision/siglip.safetensors").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"siglip\.safetensors has 5 bytes instead of 14"):
        open_bundle(directory)


def test_directory_in_place_of_a_file(directory: Path) -> None:
    (directory / "vision/siglip.safetensors").unlink()
    (directory / "vision/siglip.safetensors").mkdir()
    with pytest.raises(BundleError, match="is a directory, not a file"):
        open_bundle(directory)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/hostname",
        "vision/../../x",
        "",
        "C:/x",
        "vision\\x",
        "a\0b",
        ".",
        "vision//x",
        "./x",
        "x/",
        "a\x1b[2Jb",
        "x" * 1000,
    ],
)
def test_path_outside_the_bundle_is_refused(directory: Path, name: str) -> None:
    write_manifest(directory, files=with_file(name))
    with pytest.raises(BundleError, match="is not a path inside the bundle"):
        open_bundle(directory)


def test_link_out_of_the_bundle_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(FILES["vision/siglip.safetensors"])
    (directory / "vision/siglip.safetensors").unlink()
    (directory / "vision/siglip.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(directory)


def test_linked_directory_out_of_the_bundle_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "vision").rename(tmp_path / "vision")
    (directory / "vision").symlink_to(tmp_path / "vision")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(directory)


def test_bundle_behind_a_link_opens(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    assert open_bundle(tmp_path / "link").directory == directory


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (1, "has format version 1 and was made by an older release: export it again."),
        (3, "has format version 3 and was made by a newer release: install a newer valley2-edge."),
    ],
)
def test_another_version_is_refused_before_its_fields_are_read_by_the_same_words_everywhere(
    directory: Path, version: int, sentence: str
) -> None:
    (directory / MANIFEST_NAME).write_text(f'{{"format": "valley2-bundle", "format_version": {version}, "new": 1}}')
    with pytest.raises(BundleError) as in_python:
        open_bundle(directory)
    write_manifest(directory)
    checked = open_bundle(directory)
    write_manifest(directory, format_version=version)
    with pytest.raises(BundleError) as in_core:
        plan_memory(checked, [], MemorySettings(), process_bytes=0)
    assert str(in_python.value) == str(in_core.value) == f"{directory} {sentence}"


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, True])
def test_version_that_is_no_version(directory: Path, version: Any) -> None:
    write_manifest(directory, format_version=version)
    with pytest.raises(BundleError, match="positive whole number"):
        open_bundle(directory)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not readable JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not readable JSON"),
        (b"[1]", "no JSON object"),
        (b'{"format": "other"}', '"format" is not "valley2-bundle"'),
    ],
)
def test_manifest_that_is_none(directory: Path, content: bytes, sentence: str) -> None:
    (directory / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=sentence):
        open_bundle(directory)


def test_unknown_field_is_named(directory: Path) -> None:
    write_manifest(directory, surprise=1)
    with pytest.raises(BundleError, match="surprise: Extra inputs are not permitted"):
        read_manifest(directory)


def test_missing_field_is_named(directory: Path) -> None:
    write_manifest(directory, decoder={"precision": "int4"})
    with pytest.raises(BundleError, match=r"decoder\.lm_head_precision: Field required"):
        read_manifest(directory)


@pytest.mark.parametrize("used", ["vision/eagle.safetensors", "vision/siglip.onnx.data", "tokenizer/tokenizer.json"])
def test_used_file_must_be_listed(directory: Path, used: str) -> None:
    files = json.loads((directory / MANIFEST_NAME).read_text())["files"]
    files.pop(used)
    write_manifest(directory, files=files)
    with pytest.raises(BundleError, match=f"{used} is used but not listed"):
        open_bundle(directory)


def test_eagle_component_and_architecture_must_agree(directory: Path) -> None:
    write_manifest(directory, eagle=None)
    with pytest.raises(BundleError, match="Eagle component and the architecture disagree"):
        open_bundle(directory)


def test_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no valley2\.json"):
        open_bundle(tmp_path)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a directory"):
        open_bundle(tmp_path / "nothing")
