"""What the command line does not import before it has something to do: a help page waits for nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("PIL", "numpy", "onnx", "onnxruntime", "pydantic", "rich", "tokenizers", "torch", "transformers")
IMPORTED = (
    "import sys, valley2_edge.__main__ as process; sys.argv[1:] = {words!r}\n"
    "try: process.main()\n"
    "except SystemExit: pass\n"
    "print('\\n' + ' '.join(sorted(sys.modules)))"
)


def imported_by(words: list[str], directory: Path, **variables: str) -> set[str]:
    """The modules that are loaded when a command line is done, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(words=words)],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, **variables},
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def commands_in(modules: set[str]) -> set[str]:
    from valley2_edge.cli.commands import COMMANDS

    return {name for name in COMMANDS if f"valley2_edge.cli.{name}" in modules}


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["-h"], []])
def test_version_and_help_import_no_command_and_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    modules = imported_by(words, tmp_path)
    assert "valley2_edge.cli.main" in modules
    assert modules.isdisjoint(HEAVY)
    assert commands_in(modules) == set()


@pytest.mark.parametrize(
    "words",
    ["chat", "demo", "export", "plan", "inspect", "verify", "convert", "bench", "engines build", "eval compare"],
)
def test_help_of_a_command_imports_nothing_heavy(tmp_path: Path, words: str) -> None:
    name, *inner = words.split()
    modules = imported_by([name, *inner, "--help"], tmp_path)
    assert modules.isdisjoint(HEAVY)
    # convert checks for the packages of the export extra as export does.
    assert commands_in(modules) == ({"convert", "export"} if name == "convert" else {name})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_commands_imports_no_command_and_nothing_heavy(tmp_path: Path, shell: str) -> None:
    asked = {
        "_VALLEY2_EDGE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "valley2-edge ch",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "valley2-edge ch",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    modules = imported_by([], tmp_path, **asked)
    assert "valley2_edge.cli.completion" in modules
    assert modules.isdisjoint(HEAVY)
    assert commands_in(modules) == set()


def test_completion_of_a_bundle_imports_one_command_and_no_engine(tmp_path: Path) -> None:
    asked = {"_VALLEY2_EDGE_COMPLETE": "complete_bash", "COMP_WORDS": "valley2-edge inspect n", "COMP_CWORD": "2"}
    modules = imported_by([], tmp_path, **asked)
    assert modules.isdisjoint(HEAVY)
    assert commands_in(modules) == {"inspect"}
