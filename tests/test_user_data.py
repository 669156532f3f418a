"""What is remembered between runs, and the order in which a bundle is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from valley2_edge import user_data
from valley2_edge.errors import InputError
from valley2_edge.user_data import FileStamp, VerifiedFiles


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "data"
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(directory))
    monkeypatch.delenv(user_data.BUNDLE_VARIABLE, raising=False)
    return directory


def test_named_bundle_wins_over_variable_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_data.remember_bundle(tmp_path)
    monkeypatch.setenv(user_data.BUNDLE_VARIABLE, "from-variable")
    assert user_data.resolve_bundle("named") == Path("named")


def test_variable_wins_over_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_data.remember_bundle(tmp_path)
    monkeypatch.setenv(user_data.BUNDLE_VARIABLE, "from-variable")
    assert user_data.resolve_bundle() == Path("from-variable")


def test_empty_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_data.remember_bundle(tmp_path)
    monkeypatch.setenv(user_data.BUNDLE_VARIABLE, "")
    assert user_data.resolve_bundle() == tmp_path


def test_remembered_bundle_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    user_data.remember_bundle(Path("bundle"))
    assert user_data.last_bundle() == tmp_path / "bundle"


def test_no_bundle_anywhere_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"chat --bundle nano.*verify nano.*VALLEY2_BUNDLE.*export"):
        user_data.resolve_bundle()


def test_remembered_bundle_that_is_gone_is_named(tmp_path: Path) -> None:
    user_data.remember_bundle(tmp_path / "gone")
    with pytest.raises(InputError, match="gone, is gone"):
        user_data.resolve_bundle()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"bundle": 7}', b'{"bundle": ""}', b"\xff\xfe"])
def test_broken_memory_counts_as_absent(data_directory: Path, content: bytes) -> None:
    data_directory.mkdir()
    (data_directory / "last_bundle.json").write_bytes(content)
    assert user_data.last_bundle() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b'{"version": 1, "files": 3}', b'{"version": 1, "files": {"/x": 3}}', b'{"version": 2}'],
)
def test_broken_verified_files_count_as_absent(data_directory: Path, tmp_path: Path, content: bytes) -> None:
    data_directory.mkdir()
    (data_directory / "verified_files.json").write_bytes(content)
    file = tmp_path / "file"
    file.write_bytes(b"content")
    verified = VerifiedFiles()
    assert verified.sha256(file, FileStamp.of(file)) is None
    verified.remember(file, FileStamp.of(file), "hash")
    verified.save()
    assert VerifiedFiles().sha256(file, FileStamp.of(file)) == "hash"


def test_changed_file_is_not_verified(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    verified = VerifiedFiles()
    verified.remember(file, FileStamp.of(file), "hash")
    file.write_bytes(b"content of another size")
    assert verified.sha256(file, FileStamp.of(file)) is None


def test_files_that_are_gone_are_forgotten(data_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    verified = VerifiedFiles()
    verified.remember(file, FileStamp.of(file), "hash")
    file.unlink()
    verified.save()
    assert json.loads((data_directory / "verified_files.json").read_text())["files"] == {}


def test_unwritable_data_directory_does_not_stop_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("a file where the directory should be")
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(blocker / "data"))
    verified = VerifiedFiles()
    verified.remember(blocker, FileStamp.of(blocker), "hash")
    verified.save()


def test_no_temporary_file_is_left(data_directory: Path, tmp_path: Path) -> None:
    user_data.remember_bundle(tmp_path)
    user_data.remember_bundle(tmp_path)
    assert [path.name for path in data_directory.iterdir()] == ["last_bundle.json"]
