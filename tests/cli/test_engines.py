"""`valley2-edge engines`: makes graphs and engines for the user's data directory, shows and removes them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


@pytest.fixture(autouse=True)
def _no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(tmp_path / "no driver"))


def test_without_a_command_it_shows_what_there_is(run: Run) -> None:
    outcome = run("engines")
    assert outcome.code == 0 and outcome.stderr == ""
    assert all(command in outcome.stdout for command in ("onnx", "build", "list", "clear", "Make vision graphs"))
    assert run("engines", "biuld").code == 2


def test_directory_of_another_kind_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "engines").symlink_to(tmp_path / "elsewhere")
    listed = run("engines", "list")
    assert listed.code == 0 and "0 graphs" in listed.stdout and "0 engines" in listed.stdout
    refused = run("engines", "clear")
    assert refused.code == 2 and "symbolic link" in refused.error


@pytest.mark.slow
def test_graphs_are_made_listed_and_removed(run: Run, int4_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "graphs"
    made = run("engines", "onnx", int4_bundle)
    assert made.code == 0, made.stderr
    paths = [Path(line.rpartition(":")[0]) for line in made.stdout.splitlines()]
    assert [path.name for path in paths] == ["siglip.onnx", "projector.onnx", "eagle.onnx"]
    assert all(path.is_file() and path.parent.parent == folder for path in paths)
    again = run("engines", "onnx", int4_bundle, "--component", "eagle")
    assert (again.code, again.stdout) == (0, "") and "eagle: is there already" in again.stderr
    listed = json.loads(run("engines", "list", "--json").stdout)
    assert listed["engines"] == []
    assert [(one["component"], one["path"]) for one in listed["graphs"]] == [
        (path.stem, str(path)) for path in sorted(paths)
    ]
    manifest = json.loads((int4_bundle / "valley2.json").read_text())
    towers = {one["component"]: one["tower"] for one in listed["graphs"]}
    assert towers == {name: manifest["files"][f"vision/{name}.safetensors"]["sha256"] for name in towers}
    table = run("engines", "list")
    assert "projector" in table.stdout and "3 graphs" in table.stdout
    cleared = run("engines", "clear")
    assert cleared.code == 0 and "9 files removed" in cleared.stdout and not folder.exists()


def test_graphs_of_towers_in_int8_are_refused(run: Run, int8_vision_bundle: Path) -> None:
    outcome = run("engines", "onnx", int8_vision_bundle)
    (line,) = [line for line in outcome.stderr.splitlines() if "error" in line]
    assert outcome.code == 2 and "in int8" in line and "--vision-precision bf16" in line


def test_missing_package_is_named_with_the_extra(run: Run, int4_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else found(name, *rest))
    for words in (("engines", "onnx", int4_bundle), ("export", "nano", "--graphs", "onnx")):
        outcome = run(*words)
        assert outcome.code == 2 and "onnx" in outcome.error and "pip install" in outcome.error


@pytest.mark.slow
@needs_rtx
def test_engines_for_another_gpu_are_built_listed_and_removed(run: Run, int4_bundle: Path, tmp_path: Path) -> None:
    words = ("engines", "build", int4_bundle, "--compute-capability", "8.6")
    built = run(*words)
    assert built.code == 0, built.stderr
    paths = [Path(line.rpartition(":")[0]) for line in built.stdout.splitlines()]
    # An engine is built of a graph, which is made first where there is none.
    assert [path.name.split("-")[0] for path in paths] == [
        *("siglip.onnx", "siglip", "projector.onnx", "projector", "eagle.onnx", "eagle")
    ]
    engines = [path for path in paths if path.suffix == ".engine"]
    assert all(path.parent == tmp_path / "data" / "engines" for path in engines)
    assert b"vtrt" in engines[0].read_bytes()[:2000] or b"ftrt" in engines[0].read_bytes()[:2000]
    again = run(*words, "--component", "eagle")
    assert again.code == 0 and "eagle: is there already" in again.stderr
    listed = json.loads(run("engines", "list", "--json").stdout)["engines"]
    assert [(one["component"], one["most_rows"]) for one in listed] == [
        ("eagle", 2916),
        ("projector", 9),
        ("siglip", 9),
    ]
    assert {(one["capability"], one["flavour"], one["gpu"], one["driver"]) for one in listed} == {
        ("8.6", "tensorrt_rtx", "", "")
    }
    table = run("engines", "list")
    assert "any (8.6)" in table.stdout and "3 engines" in table.stdout.replace("\n", " ")
    cleared = run("engines", "clear")
    assert cleared.code == 0 and "3 files removed" in cleared.stdout.replace("\n", " ")
    assert "0 engines" in run("engines", "list").stdout.replace("\n", " ")


@needs_rtx
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--compute-capability", "9.0"), "has no target 9.0"),
        (("--compute-capability", "8.6", "--image", "missing.png", "--component", "eagle"), "missing.png"),
        (
            ("--compute-capability", "7.5", "--precision", "fp32", "--component", "siglip"),
            "siglip engine was not built",
        ),
        ((), "there is no NVIDIA driver"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    run: Run, int4_bundle: Path, words: tuple[str, ...], sentence: str
) -> None:
    outcome = run("engines", "build", int4_bundle, *words)
    assert outcome.code == 2 and sentence in outcome.stderr.splitlines()[-1]


@pytest.mark.slow
def test_verify_says_that_it_went_on_without_tensorrt(run: Run, int4_bundle: Path) -> None:
    refused = run("verify", int4_bundle, "--vision-engine", "tensorrt")
    assert refused.code == 2 and f"valley2-edge engines onnx {int4_bundle}" in refused.stderr
    assert run("engines", "onnx", int4_bundle).code == 0
    outcome = run("verify", int4_bundle, "--vision-engine", "tensorrt")
    assert outcome.code == 0
    (line,) = [line for line in outcome.stderr.splitlines() if "warning" in line]
    assert "instead of TensorRT: there is no NVIDIA driver" in line


@pytest.mark.slow
def test_bench_measures_tensorrt_beside_a_gpu_only(run: Run, int4_bundle: Path) -> None:
    assert run("engines", "onnx", int4_bundle).code == 0
    outcome = run("bench", int4_bundle, "--vision-engine", "tensorrt", "--parts", "siglip")
    assert outcome.code == 2 and "add --device cuda" in outcome.stderr
