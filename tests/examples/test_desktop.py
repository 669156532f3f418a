"""The program with Tk in examples/python: its conversation, and its window under Xvfb."""

from __future__ import annotations

import importlib.util
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "examples" / "python" / "desktop.py"
NANO = ROOT / "valley2_edge" / "builtin" / "valley2-nano-int4"
CARD = ROOT / "examples" / "pictures" / "card.png"

pytestmark = pytest.mark.slow

WINDOW = """
import pathlib, runpy, sys
program, bundle, picture, leave = sys.argv[1:]
window = runpy.run_path(program)["Window"](pathlib.Path(bundle))
asked = False

def drive():
    global asked
    if not asked and str(window.button["state"]) == "normal":
        asked = True
        window.show(pathlib.Path(picture))
        window.question.insert(0, "What is the price?")
        window.button.invoke()
        assert window.button["text"] == "Stop"
    if asked and (leave == "while answering" or not window.answering):
        print(window.transcript.get("1.0", "end").strip())
        window.leave()
        return
    window.after(10, drive)

drive()
window.mainloop()
"""


@pytest.fixture(scope="module")
def desktop() -> ModuleType:
    pytest.importorskip("tkinter", reason="needs Python's tkinter (Debian: python3-tk)")
    spec = importlib.util.spec_from_file_location("desktop", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["desktop"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def conversation(desktop: ModuleType) -> Iterator[Any]:
    one = desktop.Conversation(NANO)
    yield one
    one.close()


def heard(events: queue.Queue[Any], last: str) -> list[Any]:
    """The events up to one of a kind."""
    found = [events.get(timeout=120)]
    while found[-1].kind != last:
        found.append(events.get(timeout=120))
    return found


def test_conversation_answers_and_tells_its_progress(conversation: Any) -> None:
    assert {event.kind for event in heard(conversation.events, "ready")} == {"progress", "ready"}
    conversation.ask("What is the price?", [CARD])
    events = heard(conversation.events, "finished")
    assert "".join(event.text for event in events if event.kind == "piece") == "$36.99"
    assert any(event.kind == "progress" and 0 < event.done <= event.total for event in events)


def test_stopped_conversation_goes_on_with_the_next_question(conversation: Any) -> None:
    heard(conversation.events, "ready")
    conversation.ask("What is the price?", [CARD])
    conversation.stop()
    assert "stopped" in {event.kind for event in heard(conversation.events, "finished")}
    conversation.ask("What is the price?", [CARD])
    assert "".join(event.text for event in heard(conversation.events, "finished") if event.kind == "piece") == "$36.99"


def test_failures_are_told(desktop: ModuleType, conversation: Any, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    conversation.ask("What is it?", [tmp_path / "no.png"])
    assert any(event.kind == "failed" and "no.png" in event.text for event in heard(conversation.events, "finished"))
    missing = desktop.Conversation(tmp_path / "missing")
    assert "missing" in heard(missing.events, "failed")[-1].text
    missing.close()


def test_closing_stops_the_loading(desktop: ModuleType) -> None:
    one = desktop.Conversation(NANO)
    one.close()
    assert {event.kind for event in one.events.queue} <= {"progress", "stopped", "ready"}


@pytest.mark.parametrize(("leave", "transcript"), [("at the end", "$36.99"), ("while answering", "price?")])
def test_window_answers_and_closes(desktop: ModuleType, leave: str, transcript: str) -> None:
    if shutil.which("xvfb-run") is None:
        pytest.skip("needs Xvfb (Debian: xvfb xauth)")
    command = ["xvfb-run", "--auto-servernum", sys.executable, "-c", WINDOW, PROGRAM, NANO, CARD, leave]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"LC_ALL": "C.UTF-8"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(transcript)
