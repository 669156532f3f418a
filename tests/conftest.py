"""What tests of several folders share: exported bundles of the tiny checkpoint, and a data directory of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# The tests import ONNX Runtime themselves.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# The tests run on every core already. Two more threads for each operation of torch or NumPy wait for each other more
# than they compute: an export of the tiny checkpoint then takes three times the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"
QUICK = "not slow"
SLOW_FILE = "\npytestmark = pytest.mark.slow\n"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves the files that are slow as a whole out of `make test` unread.

    Their imports, torch and transformers among them, take longer than all quick tests of a folder.
    """
    if config.getoption("markexpr") != QUICK or collection_path.suffix != ".py":
        return None
    return SLOW_FILE in collection_path.read_text("utf-8") or None


@pytest.fixture(scope="session", autouse=True)
def _own_data_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what a bundle's check remembers out of the user's own data directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VALLEY2_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _heard_interruptions() -> None:
    """Ctrl-C is heard here and in the processes that tests start, also where a shell that ignores it started them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def export_once(directory: Path, bundles: dict[str, dict[str, Any]]) -> Path:
    """Exports the tiny checkpoint, by name and options, where all workers look: whichever asks first does it.

    Without options for the rounding int4 is rounded to the nearest level, which takes the least time, with the rotation
    that the default has.
    """
    directory.mkdir(exist_ok=True)
    with FileLock(directory / ".lock"):
        for name, options in bundles.items():
            if not (directory / name).is_dir():
                from valley2_edge.export.options import ExportOptions
                from valley2_edge.export.pipeline import export_bundle
                from valley2_edge.export.rounding.options import RoundingOptions

                nearest = {"rounding": RoundingOptions(method="rtn"), "rotation": "hadamard"}
                chosen = {**nearest, **options} if options.get("precision", "int4") == "int4" else options
                export_bundle(CHECKPOINT, directory / name, ExportOptions(**chosen))
    return directory


@pytest.fixture(scope="session")
def plain_bundles(run_directory: Path) -> Path:
    """What most tests need, exported by one worker: the imports of an export take longer than these bundles."""
    options = {"fp32": {"precision": "fp32"}, "int4": {}, "int8": {"precision": "fp32", "vision_precision": "int8"}}
    return export_once(run_directory / "plain_bundles", options)


@pytest.fixture(scope="session")
def fp32_bundle(plain_bundles: Path) -> Path:
    """The tiny checkpoint, exported in fp32; not to be changed."""
    return plain_bundles / "fp32"


@pytest.fixture(scope="session")
def int4_bundle(plain_bundles: Path) -> Path:
    """The tiny checkpoint, exported to int4 by rtn, with the rotation of the default; not to be changed."""
    return plain_bundles / "int4"


@pytest.fixture(scope="session")
def onnx_bundle(run_directory: Path) -> Path:
    """The tiny checkpoint in int4 with the decoder in ONNX graphs; not to be changed."""
    return export_once(run_directory / "onnx_bundles", {"int4": {"decoder_engine": "onnx"}}) / "int4"


@pytest.fixture(scope="session")
def int8_vision_bundle(plain_bundles: Path) -> Path:
    """The tiny checkpoint in fp32 with its vision layers in int8; not to be changed."""
    return plain_bundles / "int8"


@pytest.fixture(scope="session")
def graph_bundle(run_directory: Path) -> Path:
    """The tiny checkpoint in int4 with ONNX graphs beside its towers; not to be changed."""
    return export_once(run_directory / "graph_bundles", {"int4": {"graphs": "onnx"}}) / "int4"
