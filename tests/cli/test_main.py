"""The dispatcher: exit codes, one line for every failure, tracebacks only when asked for."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from valley2_edge.cli import inspect as inspect_command
from valley2_edge.cli.commands import COMMANDS, load_command
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
def test_interruption_is_one_line_and_exits_130(run, fail_with, error: BaseException) -> None:
    fail_with(error)
    outcome = run("inspect")
    assert (outcome.code, outcome.error) == (130, "valley2-edge: cancelled")


def test_import_that_fails_because_it_is_interrupted_is_an_interruption(run, fail_with) -> None:
    error = ImportError("Error importing numpy C-extensions")
    error.__cause__ = KeyboardInterrupt()
    fail_with(error)
    assert run("inspect").code == 130


def test_ctrl_c_in_a_destructor_is_raised_behind_it_and_not_printed() -> None:
    code = """
import sys, time
import valley2_edge.cli.main as m

class Interrupted:
    def __del__(self):
        raise KeyboardInterrupt

sys.unraisablehook = m._hear_interrupt
try:
    value = Interrupted()
    del value
    time.sleep(30)
except KeyboardInterrupt:
    print("heard")
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (finished.stdout, finished.stderr) == ("heard\n", "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
@pytest.mark.parametrize("words", [["chat", "What?", "--bundle", "nano"], ["verify", "nano"], ["plan", "nano"]])
def test_ctrl_c_is_quiet_from_the_first_import_on(tmp_path: Path, words: list[str]) -> None:
    # The line says that the interpreter's own start is over, which no program can make quiet. An interruption that
    # arrives before main is entered, or before its first statement, is not main's to hear.
    code = f"""
import sys
import valley2_edge.__main__ as m
sys.argv[1:] = {words!r}
try:
    print("go", flush=True)
    sys.exit(m.main())
except KeyboardInterrupt as error:
    inside = error.__traceback__.tb_next
    if inside is not None and inside.tb_lineno != m.main.__code__.co_firstlineno:
        raise
"""
    # The command verify says how far it came.
    sentence = re.compile(
        r"valley2-edge: (cancelled|stopped; (nothing was compared yet|\d+ rows? (was|were) compared, none failed); "
        r"nothing is kept: run the same command again)\n"
    )
    for milliseconds in (0, 5, 10, 20, 40, 80, 120, 160, 240, 320, 480, 640):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        # Or it was done before.
        ended = errors.removeprefix("checking files\n")  # the first stage of verify
        assert (process.returncode == 130 and sentence.fullmatch(ended)) or process.returncode in (0, -2)
        assert "Traceback" not in errors and "ignored" not in errors


def test_lines_of_the_help_are_the_commands_own() -> None:
    for name, line in COMMANDS.items():
        own = load_command(name).get_short_help_str(limit=500)
        assert " ".join(own.split()).startswith(line.rstrip("."))


def test_commands_are_imported_when_they_run(tmp_path: Path) -> None:
    code = (
        "import sys; from valley2_edge.cli.main import main; main(['--help']); "
        "print(sorted(name for name in sys.modules if name in ('numpy', 'pydantic', 'PIL', 'valley2_edge.cli.export')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_names_of_files_cannot_steer_the_terminal(run, tmp_path: Path) -> None:
    outcome = run("inspect", tmp_path / "a\x1b]0;title\x07b")
    assert outcome.code == 2
    assert r"a\x1b]0;title\x07b" in outcome.error and "\x07" not in outcome.stderr


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
