"""The dispatcher: exit codes, one line for every failure, tracebacks only when asked for."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from valley2_edge.cli import inspect as inspect_command
from valley2_edge.errors import BundleError, Cancelled, Valley2Warning
from valley2_edge.version import __version__


def failing(error: BaseException) -> object:
    def resolve(*_: object) -> None:
        raise error

    return resolve


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch):
    """Makes `inspect` raise."""
    return lambda error: monkeypatch.setattr(inspect_command, "resolve_bundle", failing(error))


def test_version(run) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.stdout) == (0, f"valley2-edge {__version__}\n")


def test_no_command_shows_the_help(run) -> None:
    outcome = run()
    assert outcome.code == 0
    assert all(command in outcome.stdout for command in ("export", "chat", "inspect", "verify"))


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["chat", "--nonsense"],
        ["inspect", "--nonsense"],
        ["chat", "--top-k", "many", "x"],
        ["inspect", "a", "b"],
    ],
)
def test_unknown_words_are_one_line_and_exit_2(run, words: list[str]) -> None:
    outcome = run(*words)
    assert outcome.code == 2
    assert outcome.error.startswith("valley2-edge: error: ")
    assert outcome.stdout == ""


def test_user_mistake_is_one_line_and_exit_2(run, fail_with) -> None:
    fail_with(BundleError("it is\nbroken"))
    outcome = run("inspect")
    assert (outcome.code, outcome.error) == (2, "valley2-edge: error: it is broken")


def test_system_error_names_the_file_and_exits_2(run, fail_with) -> None:
    fail_with(OSError(errno.ENOSPC, "No space left on device", "/some/file"))
    outcome = run("inspect")
    assert (outcome.code, outcome.error) == (2, "valley2-edge: error: /some/file: No space left on device")


def test_bug_is_one_line_with_a_hint_and_exit_1(run, fail_with) -> None:
    fail_with(ZeroDivisionError("by zero"))
    outcome = run("inspect")
    assert outcome.code == 1
    assert "ZeroDivisionError: by zero" in outcome.error
    assert "--debug" in outcome.error


@pytest.mark.parametrize("words", [["--debug", "inspect"], ["inspect", "--debug"]])
def test_debug_shows_the_traceback(run, fail_with, words: list[str]) -> None:
    fail_with(ZeroDivisionError("by zero"))
    outcome = run(*words)
    assert outcome.code == 1
    assert "Traceback (most recent call last)" in outcome.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled("The answer was cancelled.")])
def test_interruption_exits_130(run, fail_with, error: BaseException) -> None:
    fail_with(error)
    assert run("inspect").code == 130


def test_own_warnings_are_one_line_each_time(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> None:
        for _ in range(2):
            warnings.warn("beware", Valley2Warning, stacklevel=1)
        raise BundleError("x")

    monkeypatch.setattr(inspect_command, "resolve_bundle", resolve)
    lines = run("inspect").stderr.splitlines()
    assert lines == ["valley2-edge: warning: beware"] * 2 + ["valley2-edge: error: x"]


def test_module_runs_as_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "valley2_edge", "inspect", tmp_path], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"valley2-edge: error: {tmp_path} is not a bundle: it has no valley2.json\n"


def test_help_loads_no_engine(tmp_path: Path) -> None:
    code = (
        "import sys; from valley2_edge.cli.main import main; main(['chat', '--help']); "
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
