"""Graphs beside the towers of a bundle, and those that a machine makes of a bundle's towers for itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import BundleError, ExportError
from valley2_edge.export.bundle_size import bundle_size
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.vision.local_graphs import make_local_graph
from valley2_edge.runtime.core.vision_engine import ComponentName
from valley2_edge.runtime.onnx.graph_cache import GraphCache
from valley2_edge.runtime.onnx.graph_files import graph_files
from valley2_edge.runtime.trt.cache import graph_digest

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
COMPONENTS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")


@pytest.fixture(scope="module")
def with_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(graphs="onnx", rounding=RoundingOptions(method="rtn"), rotation="hadamard")
    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("graphs") / "bundle", options)


@pytest.fixture
def bundle(int4_bundle: Path) -> Bundle:
    """A bundle without graphs of its own."""
    return open_bundle(int4_bundle)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_graphs_are_listed_beside_the_towers(with_graphs: Path, bundle: Bundle) -> None:
    opened = open_bundle(with_graphs, check="full")
    assert opened.manifest.graphs == {name: [f"vision/{name}.onnx", f"vision/{name}.onnx.data"] for name in COMPONENTS}
    for name in COMPONENTS:
        assert graph_files(opened, name) == with_graphs / "vision" / f"{name}.onnx"
        tower = f"vision/{name}.safetensors"
        assert opened.manifest.files[tower] == bundle.manifest.files[tower]
    assert bundle.manifest.graphs is None


def test_size_of_a_bundle_with_graphs_is_estimated_from_above_and_closely(with_graphs: Path) -> None:
    actual = sum(path.stat().st_size for path in with_graphs.rglob("*") if path.is_file())
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        estimate = bundle_size(checkpoint, "bf16", decoder_formats("int4"), graphs=True)
    assert actual <= estimate <= actual + 7 * 2**20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions(graphs="tflite"), "graphs 'tflite' are unknown: choose onnx"),  # type: ignore[arg-type]
        (ExportOptions(graphs="onnx", vision_precision="int8"), "towers in int8: use --vision-precision bf16"),
    ],
)
def test_graphs_that_cannot_be_made_are_refused_at_once(tmp_path: Path, options: ExportOptions, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        export_bundle(CHECKPOINT, tmp_path / "bundle", options)
    assert not list(tmp_path.iterdir())


def test_graph_made_on_the_machine_is_that_of_the_export(with_graphs: Path, bundle: Bundle, data: Path) -> None:
    for name in COMPONENTS:
        assert graph_files(bundle, name) is None
        path = make_local_graph(bundle, name)
        assert graph_files(bundle, name) == path and path.is_relative_to(data / "graphs")
        for file in (path, path.with_name(f"{path.name}.data")):
            assert file.read_bytes() == (with_graphs / "vision" / file.name).read_bytes()
    assert [kept.key.component for kept in GraphCache().entries()] == ["eagle", "projector", "siglip"]


def test_other_towers_have_other_graphs(bundle: Bundle, fp32_bundle: Path) -> None:
    make_local_graph(bundle, "projector")
    other = open_bundle(fp32_bundle)
    assert graph_files(other, "projector") is None
    assert make_local_graph(other, "projector") == graph_files(other, "projector")
    assert graph_files(other, "projector") != graph_files(bundle, "projector")


def test_engines_key_is_known_before_there_is_a_graph(with_graphs: Path, bundle: Bundle, fp32_bundle: Path) -> None:
    before = graph_digest(bundle, "projector")
    make_local_graph(bundle, "projector")
    assert graph_digest(bundle, "projector") == before
    # What somebody put into a bundle beside its towers may compute something else than they do.
    digests = {graph_digest(open_bundle(one), "projector") for one in (with_graphs, fp32_bundle)}
    assert len(digests | {before}) == 3


def test_tower_in_int8_makes_no_graph_and_leaves_nothing(int8_vision_bundle: Path, data: Path) -> None:
    with pytest.raises(ExportError, match=r"siglip\.safetensors is a tower in int8.*--vision-precision bf16"):
        make_local_graph(open_bundle(int8_vision_bundle), "siglip")
    assert not list((data / "graphs").iterdir())


def test_tower_that_changed_since_the_bundle_was_opened_makes_no_graph(int4_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(int4_bundle, tmp_path / "copy")
    opened = open_bundle(tmp_path / "copy")
    tower = tmp_path / "copy" / "vision" / "projector.safetensors"
    content = bytearray(tower.read_bytes())
    content[-200] ^= 1
    tower.write_bytes(content)
    with pytest.raises(BundleError, match="has changed since the bundle was checked"):
        make_local_graph(opened, "projector")
    assert GraphCache().entries() == []


def test_machine_without_torch_makes_graphs(int4_bundle: Path, data: Path) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, transformers=None); from valley2_edge.__main__ import main; main()"
    )
    words = ["engines", "onnx", str(int4_bundle), "--component", "projector"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (kept,) = GraphCache().entries()
    assert done.stdout.startswith(str(kept.path))
