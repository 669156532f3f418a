"""Two writers of one output: the second is told, and a lock outlives no process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from valley2_edge.errors import ExportError
from valley2_edge.output_lock import output_lock

HOLD = """
import sys
from pathlib import Path
from valley2_edge.output_lock import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_writer_is_told(tmp_path: Path) -> None:
    message = "bundle is being written by another process"
    with output_lock(tmp_path / "bundle"), pytest.raises(ExportError, match=message), output_lock(tmp_path / "bundle"):
        pass
    with output_lock(tmp_path / "bundle"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_outputs_beside_are_free(tmp_path: Path) -> None:
    with output_lock(tmp_path / "one"), output_lock(tmp_path / "two"):
        assert len(list(tmp_path.iterdir())) == 2


def test_lock_of_another_process_holds_and_goes_when_it_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ExportError, match="another process"), output_lock(output):
            pass
        process.kill()
    with output_lock(output):
        pass


def test_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), output_lock(tmp_path / "bundle"):
        raise RuntimeError
    with output_lock(tmp_path / "bundle"):
        pass
