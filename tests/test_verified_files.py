"""Which files need no second hash, and what a broken or unwritable memory of them costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from valley2_edge.outside_files import FileStamp
from valley2_edge.user_data import DATA_DIRECTORY_VARIABLE
from valley2_edge.verified_files import VerifiedFiles


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "data"
    monkeypatch.setenv(DATA_DIRECTORY_VARIABLE, str(directory))
    return directory


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
    monkeypatch.setenv(DATA_DIRECTORY_VARIABLE, str(blocker / "data"))
    verified = VerifiedFiles()
    verified.remember(blocker, FileStamp.of(blocker), "hash")
    verified.save()
    assert list(tmp_path.iterdir()) == [blocker]
