"""Strangers' files are opened in one place: nobody adds another way by accident."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("valley2_edge", "runtime", "export", "quantize", "calibration")
READS = re.compile(
    r"json\.loads?\(|\.read_text\(|\.read_bytes\(|\bopen\([^)]*\"rb?\"|\.open\(\)|model_validate_json\(|ast\.literal_eval"
    r"|yaml\.|tomllib|\bpickle|torch\.load\(|np\.load\((?!content)|load_file\("
)
# What each of these reads was written by this process or by the system, or has a reader of its own.
ALLOWED = {
    "valley2_edge/outside_files.py": "the reader",
    "export/rounding/inputs.py": "the workspace of the export that runs",
    "export/decoder_onnx/writer.py": "the decoder that the export has just written",
    "export/rounding/layer_store.py": "the workspace of the export that runs",
    "export/rounding/sensitivity.py": "the workspace of the export that runs",
    "runtime/core/process_memory.py": "/proc",
    "runtime/trt/cache.py": "engines that this machine built",
}


def sources() -> list[str]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in files if "native" not in path.parts)


@pytest.mark.parametrize("name", sources())
def test_file_is_read_by_the_one_reader(name: str) -> None:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found = [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if READS.search(line)]
    if name not in ALLOWED:
        assert found == [], "use valley2_edge.outside_files"


def test_exceptions_are_still_needed() -> None:
    idle = [name for name in ALLOWED if not READS.search((ROOT / name).read_text("utf-8"))]
    assert idle == []
