"""What the commands do behind the user's back: nothing leaves the machine, and all files are in our own directory."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests" / "golden" / "ckpt" / "eagle_ovis"
SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
# A library may keep quiet in the tests and on build machines, and not at its user's.
UNSET = (*SWITCHES, "CI", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "VALLEY2_DATA_DIR", "TMPDIR")
INTERNET = re.compile(r"AF_INET6?\b")


def works(*command: str) -> bool:
    """Whether this machine lets a program be run under another one."""
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def confinement() -> list[str]:
    """Runs a command where the loopback alone is a network, so that a failure of these tests tells nobody anything."""
    return ["unshare", "-rn"] if works("unshare", "-rn", "true") else []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["demo", "chat", "export", "verify", "verify with an ONNX decoder"])
def test_commands_ask_no_network_and_write_nothing_elsewhere(
    command: str, confinement: list[str], tmp_path: Path, request: pytest.FixtureRequest, picture: Path
) -> None:
    graphs = "onnx_bundle" if command.endswith("ONNX decoder") else "int4_bundle"
    bundle = None if command == "demo" else request.getfixturevalue(graphs)
    words = {
        "demo": ["demo"],
        "chat": ["chat", picture, "What is this?", "--bundle", bundle, "--max-new-tokens", "2"],
        "export": [
            "export",
            CHECKPOINT,
            "--output",
            tmp_path / "bundle",
            "--method",
            "rtn",
            "--decoder-engine",
            "onnx",
        ],
    }.get(command, ["verify", bundle])
    home, scratch, trace = tmp_path / "home", tmp_path / "scratch", tmp_path / "trace"
    home.mkdir()
    scratch.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in UNSET and name[:4] != "XDG_"}
    watch = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace)]
    watched = works("strace", "-qq", "-o", os.devnull, "true")
    finished = subprocess.run(
        [*confinement, *(watch if watched else []), sys.executable, "-m", "valley2_edge", *map(str, words)],
        env={**environment, "HOME": str(home), "TMPDIR": str(scratch)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    outside = [path for path in home.rglob("*") if path.is_file() and "valley2_edge" not in path.parts]
    assert outside == [] and list(scratch.iterdir()) == []
    if not watched:
        pytest.skip("strace is not here or not allowed, so nobody looked at the network; the files were right")
    assert [line for line in trace.read_text().splitlines() if INTERNET.search(line)] == []


def test_what_the_user_says_about_telemetry_stays(tmp_path: Path) -> None:
    program = (
        "import os; from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime; import_onnxruntime(); "
        f"print([os.environ[name] for name in {SWITCHES}])"
    )
    told = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    said = []
    for given in ({}, {"ORT_DISABLE_TELEMETRY": "", "HF_HUB_DISABLE_TELEMETRY": "true"}):
        command = [sys.executable, "-c", program]
        found = subprocess.run(command, env={**told, **given}, capture_output=True, text=True, check=True)
        said.append(found.stdout.strip())
    assert said == ["['1', '1']", "['1', 'true']"]


@pytest.mark.slow
def test_onnx_runtime_is_imported_in_one_place() -> None:
    """An import elsewhere would begin its telemetry before it is off."""
    importing = set()
    for folder in ("valley2_edge", "runtime", "export", "quantize", "calibration", "benchmarks", "nano"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for_types = {
                inner
                for node in ast.walk(tree)
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                for inner in ast.walk(node)
            }
            for node in set(ast.walk(tree)) - for_types:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "onnxruntime" for name in names):
                    importing.add(path.relative_to(ROOT).as_posix())
    # The benchmark's engines are programs of others, in environments without this package; worker.py sets the variable.
    assert importing == {"runtime/onnx/onnx_runtime.py", "benchmarks/peers/engine_onnxruntime.py"}


def test_export_speaks_to_the_hub_of_the_checkpoint_alone() -> None:
    program = (
        "import os, sys; import valley2_edge.export.checkpoint.hub; from huggingface_hub import constants; "
        "print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"
