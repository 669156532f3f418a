"""The Qt program in examples/cpp_qt, built with the installed core, and used by its driver where no screen is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program_build import NANO, PICTURES, ROOT, build, tool

pytestmark = pytest.mark.slow

SOURCE = ROOT / "examples" / "cpp_qt"
QUESTION = "What is the price?"

Driven = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def program(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if subprocess.run([tool("pkg-config"), "--exists", "Qt6Widgets"]).returncode != 0:
        pytest.skip("needs Qt 6 (Debian: qt6-base-dev)")
    directory = tmp_path_factory.mktemp("cpp_qt")
    build(
        SOURCE, directory, "valley2_qt", f"-DCMAKE_PREFIX_PATH={installed}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    )
    return directory / "valley2_qt"


@pytest.fixture
def drive(program: Path, tmp_path: Path) -> Driven:
    """Runs the program with options of its driver and returns its report."""

    def run(*options: str | Path, bundle: Path = NANO, platform: str = "offscreen") -> dict[str, Any]:
        place = {"QT_QPA_PLATFORM": platform, "XDG_RUNTIME_DIR": str(tmp_path)}
        tmp_path.chmod(0o700)
        screen = ["xvfb-run", "--auto-servernum"] if platform == "xcb" else []
        command = [*screen, program, bundle, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | place)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return run


def test_answers_what_python_answers(drive: Driven, said_by_python: Callable[[str, str], str], tmp_path: Path) -> None:
    picture = tmp_path / "window.png"
    report = drive("--drop", PICTURES / "card.png", "--ask", QUESTION, "--screenshot", picture)
    assert report["answers"] == [said_by_python(QUESTION, "card.png")]
    assert {"Tile", "Layer", "Position", "Text"} <= set(report["stages"])
    assert report["longest_gap_ms"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_answers_on_a_screen(drive: Driven) -> None:
    if shutil.which("xvfb-run") is None:
        pytest.skip("needs Xvfb (Debian: xvfb xauth)")
    assert drive("--drop", PICTURES / "card.png", "--ask", QUESTION, platform="xcb")["answers"] == ["$36.99"]


def test_stop_ends_the_answer_and_the_next_question_is_answered(drive: Driven) -> None:
    report = drive("--drop", PICTURES / "card.png", "--ask", QUESTION, "--ask", QUESTION, "--stop-at", "Ask")
    assert report["answers"] == ["", "$36.99"]
    assert report["stop_ms"] >= 0


@pytest.mark.parametrize("stage", ["Tile", "Layer", "Text"])
def test_stop_ends_the_answer_at_any_moment(drive: Driven, stage: str) -> None:
    report = drive("--drop", PICTURES / "card.png", "--ask", QUESTION, "--stop-at", stage)
    # Nano is quick: it may have said everything before the button is heard.
    assert len(report["answers"]) == 1 and "$36.99".startswith(report["answers"][0])
    assert "failure" not in report


@pytest.mark.parametrize("stage", ["Part", "Tile", "Position", "Text"])
def test_window_closes_at_any_moment(drive: Driven, stage: str) -> None:
    report = drive("--drop", PICTURES / "card.png", "--ask", QUESTION, "--close-at", stage)
    assert report["closed"] and report["answers"] == []


def test_failures_are_shown(drive: Driven, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    assert "picture" in drive("--drop", tmp_path / "no.png", "--ask", QUESTION)["failure"]
    assert "missing" in drive("--ask", QUESTION, bundle=tmp_path / "missing")["failure"]
