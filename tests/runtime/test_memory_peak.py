"""The plan against what a process really takes, where weights and activations outweigh the interpreter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from blank_bundle import blank_config, write_blank_bundle
from PIL import Image

from valley2_edge.precisions import VisionPrecision

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

COMMAND = [sys.executable, "-m", "valley2_edge"]
# A child's ru_maxrss begins with its parent's; VmHWM is its own.
MEASURED = (
    "import sys; from valley2_edge.cli.main import main; code = main(sys.argv[1:]); "
    "sys.stderr.write(open('/proc/self/status').read()); sys.exit(code)"
)
SIZE = (560, 420)
SHARED = ("--no-tiles", "--threads", "2")


@pytest.mark.slow
@pytest.mark.parametrize("precision", get_args(VisionPrecision))
def test_plan_is_within_a_tenth_of_the_peak(tmp_path: Path, precision: VisionPrecision) -> None:
    bundle = write_blank_bundle(tmp_path / "bundle", blank_config(), precision)
    picture = tmp_path / "picture.png"
    Image.new("RGB", SIZE, (200, 10, 90)).save(picture)
    words = ["plan", bundle, "--image", f"{SIZE[0]}x{SIZE[1]}", "--context", "1024", "--json", *SHARED]
    planned = json.loads(_output([*COMMAND, *map(str, words)], tmp_path).stdout)["plan"]
    words = ["chat", picture, "What?", "--bundle", bundle, "--context-length", "1024", "--max-new-tokens", "2", *SHARED]
    # Where other programs take the processor away, threads free later what the next one already needs.
    peak = min(_peak([sys.executable, "-c", MEASURED, *map(str, words)], tmp_path) for _ in range(2))
    assert peak > 2 * planned["process_bytes"]
    assert abs(planned["peak_bytes"] - peak) <= 0.1 * peak, (planned, peak)


def _peak(command: list[str], directory: Path) -> int:
    """The most bytes that the command had resident."""
    finished = _output(command, directory)
    found = re.search(r"VmHWM:\s+(\d+) kB", finished.stderr)
    assert found is not None, finished.stderr
    return int(found[1]) << 10


def _output(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    # Elsewhere than in the checkout, whose folder would be taken for the installed package.
    finished = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    assert finished.returncode == 0, finished.stderr
    return finished
