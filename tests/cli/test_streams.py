"""Standard streams that are closed, full, without a reader, or a terminal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shell of POSIX")
COMMAND = f"{sys.executable} -m valley2_edge"
_WAIT_SECONDS, _WAITS = 3, 300
CHAT = f"{COMMAND} chat --bundle nano"


def shell(line: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, cwd=directory, check=False, timeout=120
    )


@pytest.mark.parametrize("command", [f"{CHAT} What?", f"{COMMAND} inspect nano", f"{COMMAND} --version"])
def test_closed_stdout_is_said(tmp_path: Path, command: str) -> None:
    done = shell(f"{command} >&-", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "valley2-edge: error: stdout is closed, so the result has nowhere to go\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", [f"{CHAT} What?", f"{COMMAND} inspect nano", f"{COMMAND} inspect nano --json"])
def test_full_disk_is_said(tmp_path: Path, command: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = shell(f"{command} >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "valley2-edge: error: stdout or a file cannot be written: No space left on device\n"


@pytest.mark.slow
def test_closed_stdin_is_no_conversation(tmp_path: Path) -> None:
    assert shell(f"{CHAT} <&-", tmp_path).stderr.startswith("valley2-edge: error: stdin is closed")
    assert shell(f"{CHAT} - <&-", tmp_path).stderr.startswith("valley2-edge: error: stdin is closed")
    assert shell(f"{CHAT} What? --max-new-tokens 2 <&-", tmp_path).returncode == 0


@pytest.mark.slow
def test_closed_stderr_takes_no_answer_away(tmp_path: Path) -> None:
    open_stderr = shell(f"{CHAT} What? --max-new-tokens 2", tmp_path)
    closed = shell(f"{CHAT} What? --max-new-tokens 2 2>&-", tmp_path)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, open_stderr.stdout, "")


@pytest.mark.slow
@pytest.mark.parametrize("command", [f"{COMMAND} inspect nano", f"{COMMAND} inspect nano --json", f"{COMMAND} --help"])
def test_reader_that_goes_away_is_no_error(tmp_path: Path, command: str) -> None:
    done = shell(f"({command}; echo $? >code) | true", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "code").read_text().strip() in ("0", "141")


@pytest.mark.slow
def test_line_that_is_no_text_takes_no_other_line_away(tmp_path: Path) -> None:
    done = shell(rf"printf 'What\377?\nWhat?\n' | {CHAT} --max-new-tokens 2", tmp_path)
    assert done.stdout == shell(f"{CHAT} What? --max-new-tokens 2", tmp_path).stdout
    assert "error: The line holds bytes that are no text in UTF-8" in done.stderr


@pytest.mark.slow
def test_conversation_without_a_reader_ends(tmp_path: Path) -> None:
    done = shell(f"(yes What? | {CHAT} --max-new-tokens 2 2>errors; echo $? >code) | head -n 1", tmp_path)
    assert done.stdout.count("\n") == 1
    assert (tmp_path / "code").read_text() == "141\n"
    assert "rror" not in (tmp_path / "errors").read_text()


def on_terminal(arguments: Sequence[str], steps: Sequence[tuple[str, bytes]], directory: Path) -> str:
    """Runs Python with a terminal of 60 columns as its three streams.

    Args:
        arguments: Command line of Python.
        steps: What to wait for on the terminal, and what to type then.
        directory: The current one.

    Returns:
        All that was shown.
    """
    import fcntl
    import pty
    import struct
    import termios

    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(directory)
        os.environ.update(TERM="xterm", COLUMNS="60", LINES="24")
        os.execv(sys.executable, [sys.executable, *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    shown, seen, left, typed = bytearray(), 0, list(steps), b""
    for _ in range(_WAITS):
        if not select.select([terminal], [], [], _WAIT_SECONDS)[0]:
            os.write(terminal, typed)  # a key that came before anybody listened
            continue
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the process has ended
            break
        if left and left[0][0].encode() in shown[seen:]:
            seen, typed = len(shown), left.pop(0)[1]
            os.write(terminal, typed)
    else:
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)
    assert not left, shown
    return shown.decode()


CONVERSATION = ["-m", "valley2_edge", "chat", "--bundle", "nano"]


@pytest.mark.slow
@pytest.mark.parametrize("typed", [b"exit\n", b"\x04", b"/exit\n"])
def test_conversation_on_a_terminal_ends(tmp_path: Path, typed: bytes) -> None:
    shown = on_terminal(CONVERSATION, [("> ", typed)], tmp_path)
    assert "Traceback" not in shown
    # Broken at a word, for the terminal's 60 columns.
    assert "lists\r\nmore, Ctrl-D ends." in shown


@pytest.mark.slow
def test_second_ctrl_c_at_the_prompt_ends(tmp_path: Path) -> None:
    shown = on_terminal(CONVERSATION, [("> ", b"\x03"), ("once more ends, and so does Ctrl-D\r\n", b"\x03")], tmp_path)
    assert "Traceback" not in shown


def test_answer_is_wrapped_and_harmless_on_a_terminal(tmp_path: Path) -> None:
    code = (
        "from valley2_edge.cli.answer_view import print_answer; "
        "print_answer(['word ' * 30, '\\x1b]0;title\\x07'], think=False)"
    )
    shown = on_terminal(["-c", code], [], tmp_path)
    assert r"\x1b]0;title\x07" in shown and "\x07" not in shown
    assert [len(line) for line in shown.splitlines()[:2]] == [59, 59]


def test_answer_in_a_pipe_is_as_the_model_wrote_it(tmp_path: Path) -> None:
    code = (
        "from valley2_edge.cli.answer_view import print_answer; "
        "print_answer(['word ' * 30, '\\x1b]0;title\\x07'], think=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "word " * 30 + "\x1b]0;title\x07\n"
