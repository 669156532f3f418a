"""Completion in the shell: commands, options, values and bundles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from valley2_edge import chosen_bundle, user_data
from valley2_edge.cli.bundle_argument import complete_bundle

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(run, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What bash offers at the end of a line."""

    def words_after(line: str) -> list[str]:
        monkeypatch.setenv("_VALLEY2_EDGE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        outcome = run()
        assert (outcome.code, outcome.stderr) == (0, "")
        return outcome.stdout.split()

    return words_after


def test_commands_are_completed(complete: Complete) -> None:
    assert complete("valley2-edge ch") == ["chat"]
    assert complete("valley2-edge eval c") == ["compare"]


def test_options_and_their_values_are_completed(complete: Complete) -> None:
    assert complete("valley2-edge chat --top") == ["--top-k", "--top-p"]
    assert complete("valley2-edge plan --device c") == ["cpu", "cuda"]


def test_bundles_are_completed(complete: Complete, fp32_bundle: Path) -> None:
    assert complete("valley2-edge inspect na") == ["nano"]
    assert complete(f"valley2-edge chat --bundle {fp32_bundle}") == [str(fp32_bundle)]


def test_completion_knows_the_bundle_exported_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    chosen_bundle.remember_bundle(tmp_path / "mine")
    assert str(tmp_path / "mine") in complete_bundle("")


def test_only_folders_that_are_bundles_are_completed(
    tmp_path: Path, fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bundle-a", "bundle-b"):
        (tmp_path / name).mkdir()
    shutil.copy(fp32_bundle / "valley2.json", "bundle-a")
    assert complete_bundle("bun") == ["bundle-a"]
    assert complete_bundle("missing/bun") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_the_shell_is_printed(run, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    with pytest.raises(SystemExit) as end:
        run("--show-completion")
    assert end.value.code == 0
