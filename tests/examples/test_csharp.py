"""The C# program in examples/csharp, where there is a dotnet to build it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from program_build import NANO, PICTURES, ROOT, run

pytestmark = pytest.mark.slow


def test_program_answers_what_python_answers(
    installed_library: Path, said_by_python: Callable[[str, str], str], tmp_path: Path
) -> None:
    dotnet = shutil.which("dotnet")
    if dotnet is None:
        pytest.skip("needs the .NET SDK, version 8 or later")
    source = shutil.copytree(ROOT / "examples" / "csharp", tmp_path / "csharp")
    run(dotnet, "build", source, "--output", tmp_path / "built")
    (tmp_path / "built" / "libvalley2.so").symlink_to(installed_library)
    command = [dotnet, tmp_path / "built" / "Ask.dll", NANO, PICTURES / "card.png", "What is the price?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == said_by_python("What is the price?", "card.png") + "\n"
