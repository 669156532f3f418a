"""Programs that end in the middle of an answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import threading
import numpy
from contextlib import suppress
from valley2_edge import Cancelled, Valley2
model = Valley2.load(sys.argv[1], threads=1)
session = model.session()
answer = session.ask("Tell me", images=[numpy.zeros((40, 60, 3), numpy.uint8)], max_new_tokens=3000)
if sys.argv[2] == "thread":
    begun = threading.Event()
    def read():
        with suppress(Cancelled):
            for _ in answer:
                begun.set()
    threading.Thread(target=read, daemon=True).start()
    begun.wait()
elif sys.argv[2] != "unread":
    assert next(answer)
if sys.argv[2] == "cycle":
    answer.own, session.own, model.own = answer, session, model
print("ended", flush=True)
"""


@pytest.mark.parametrize("how", ["unread", "left", "cycle", "thread"])
def test_program_ends_quietly(fp32_bundle: Path, tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(fp32_bundle), how]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
