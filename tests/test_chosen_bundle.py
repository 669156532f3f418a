"""The order in which a bundle is looked for, and what is remembered of the last export."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley2_edge import chosen_bundle
from valley2_edge.errors import InputError
from valley2_edge.user_data import DATA_DIRECTORY_VARIABLE


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "data"
    monkeypatch.setenv(DATA_DIRECTORY_VARIABLE, str(directory))
    monkeypatch.delenv(chosen_bundle.BUNDLE_VARIABLE, raising=False)
    return directory


def test_named_bundle_wins_over_variable_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_bundle.remember_bundle(tmp_path)
    monkeypatch.setenv(chosen_bundle.BUNDLE_VARIABLE, "from-variable")
    assert chosen_bundle.resolve_bundle("named") == Path("named")


def test_variable_wins_over_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_bundle.remember_bundle(tmp_path)
    monkeypatch.setenv(chosen_bundle.BUNDLE_VARIABLE, "from-variable")
    assert chosen_bundle.resolve_bundle() == Path("from-variable")


def test_empty_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_bundle.remember_bundle(tmp_path)
    monkeypatch.setenv(chosen_bundle.BUNDLE_VARIABLE, "")
    assert chosen_bundle.resolve_bundle() == tmp_path


def test_remembered_bundle_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    chosen_bundle.remember_bundle(Path("bundle"))
    assert chosen_bundle.last_bundle() == tmp_path / "bundle"


def test_no_bundle_anywhere_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"chat --bundle nano.*verify nano.*VALLEY2_BUNDLE.*export"):
        chosen_bundle.resolve_bundle()


def test_remembered_bundle_that_is_gone_is_named(tmp_path: Path) -> None:
    chosen_bundle.remember_bundle(tmp_path / "gone")
    with pytest.raises(InputError, match="gone, is gone"):
        chosen_bundle.resolve_bundle()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"bundle": 7}', b'{"bundle": ""}', b"\xff\xfe"])
def test_broken_memory_counts_as_absent(data_directory: Path, content: bytes) -> None:
    data_directory.mkdir()
    (data_directory / "last_bundle.json").write_bytes(content)
    assert chosen_bundle.last_bundle() is None


def test_no_temporary_file_is_left(data_directory: Path, tmp_path: Path) -> None:
    chosen_bundle.remember_bundle(tmp_path)
    chosen_bundle.remember_bundle(tmp_path)
    assert [path.name for path in data_directory.iterdir()] == ["last_bundle.json"]
