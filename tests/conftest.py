"""What tests of several folders share: exported bundles of the tiny checkpoint, and a data directory of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tests import ONNX Runtime themselves.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"


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
def fp32_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, exported in fp32; not to be changed."""
    from valley2_edge.export.options import ExportOptions
    from valley2_edge.export.pipeline import export_bundle

    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("bundles") / "fp32", ExportOptions(precision="fp32"))


@pytest.fixture(scope="session")
def int4_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, exported with the default options; not to be changed."""
    from valley2_edge.export.pipeline import export_bundle

    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("bundles") / "int4")


@pytest.fixture(scope="session")
def onnx_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in int4 with the decoder in ONNX graphs; not to be changed."""
    from valley2_edge.export.options import ExportOptions
    from valley2_edge.export.pipeline import export_bundle

    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("bundles") / "onnx", ExportOptions(decoder_engine="onnx"))
