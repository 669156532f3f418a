"""What a wheel and an sdist contain, and what the base install asks for."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from filelock import FileLock

from valley2_edge.runtime.core import library

ROOT = Path(__file__).resolve().parent.parent
INSTALLED_FOLDERS = ("calibration", "export", "quantize", "runtime")
LIBRARY_NAMES = {"win32": "valley2.dll", "darwin": "libvalley2.dylib"}


def build(kind: str, directory: Path) -> Path:
    """Builds one distribution with the installed backend, so that nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(directory), str(ROOT)]
    (ROOT / "build").mkdir(exist_ok=True)
    # Another worker may have stolen the other tests of this file, and builds in the same folder.
    with FileLock(ROOT / "build" / ".distributions.lock"):
        finished = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    (made,) = directory.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist_names(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()}


@pytest.mark.slow
def test_wheel_installs_one_package_and_nothing_else(wheel_names: set[str]) -> None:
    tops = {PurePosixPath(name).parts[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"valley2_edge"}


@pytest.mark.slow
def test_wheel_serves_every_python(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name


@pytest.mark.slow
def test_wheel_has_every_python_file_of_every_folder(wheel_names: set[str]) -> None:
    for folder in INSTALLED_FOLDERS:
        sources = [path for path in (ROOT / folder).rglob("*.py") if "native" not in path.relative_to(ROOT).parts]
        assert sources, folder
        missing = {f"valley2_edge/{path.relative_to(ROOT).as_posix()}" for path in sources} - wheel_names
        assert not missing
    missing = {path.relative_to(ROOT).as_posix() for path in (ROOT / "valley2_edge").rglob("*.py")} - wheel_names
    assert not missing
    assert "valley2_edge/py.typed" in wheel_names


@pytest.mark.slow
def test_wheel_carries_the_texts_that_the_default_rounding_reads(wheel_names: set[str]) -> None:
    texts = {f"valley2_edge/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "calibration/texts").iterdir()}
    assert len(texts) > 6 and texts <= wheel_names


@pytest.mark.slow
def test_wheel_carries_the_native_library_and_its_headers_but_not_its_sources(wheel_names: set[str]) -> None:
    name = LIBRARY_NAMES.get(sys.platform, "libvalley2.so")
    assert f"valley2_edge/runtime/{name}" in wheel_names
    assert "valley2_edge/runtime/core/_header.py" in wheel_names, "the binding, which the build makes from the header"
    sources = {name for name in wheel_names if re.search(r"\.([ch](pp)?|txt)$|/native/", name)}
    headers = {f"valley2_edge/include/valley2{part}.h" for part in ("", "_parts", "_model_parts")}
    assert {name for name in sources if ".dist-info/" not in name} == headers


@pytest.mark.slow
def test_sdist_has_the_sources_that_a_build_needs(sdist_names: set[str]) -> None:
    native = [path for path in (ROOT / "runtime" / "native").rglob("*") if path.is_file()]
    needed = {path.relative_to(ROOT).as_posix() for path in native}
    assert {"pyproject.toml", "LICENSE", "README.md", "runtime/native/CMakeLists.txt"} | needed <= sdist_names
    assert not any(name.startswith((".venv/", "build/")) or name.endswith((".so", ".pyc")) for name in sdist_names)


def test_base_install_asks_for_what_an_answer_needs_and_nothing_else() -> None:
    requirements = metadata.requires("valley2-edge") or []
    base = {re.split(r"[^\w.-]", text)[0].lower() for text in requirements if "extra ==" not in text}
    assert base == {
        "cffi", "filelock", "huggingface_hub", "numpy", "pillow", "platformdirs", "pydantic", "rich", "safetensors",
        "typer",
    }  # fmt: skip


def test_each_extra_brings_one_onnx_runtime_at_most() -> None:
    """onnxruntime and onnxruntime-gpu hold the same module: the second one overwrites the first."""
    found: dict[str, set[str]] = {}
    for text in metadata.requires("valley2-edge") or []:
        name, _, condition = text.replace("'", '"').partition(";")
        extra = re.search(r'extra == "([\w-]+)"', condition)
        if extra and name.startswith("onnxruntime") and "genai" not in name:
            found.setdefault(extra[1], set()).add(re.split(r"[^\w-]", name)[0])
    assert found == {"onnx": {"onnxruntime"}, "gpu": {"onnxruntime-gpu"}}


def test_export_extra_bounds_torch_from_above() -> None:
    (torch,) = [text for text in metadata.requires("valley2-edge") or [] if re.match(r"torch\b", text)]
    assert "<" in torch
    assert 'extra == "export"' in torch.replace("'", '"')


def test_package_and_native_core_have_one_version() -> None:
    assert library.version() == metadata.version("valley2-edge")
