"""`valley2-edge inspect`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from valley2_edge.bundle import read_manifest
from valley2_edge.cli.inspect import component_rows


def test_table_names_components_and_source(run, int4_bundle: Path) -> None:
    outcome = run("inspect", int4_bundle)
    assert outcome.code == 0
    assert outcome.stderr == ""
    for word in (
        "siglip",
        "projector",
        "eagle",
        "decoder",
        "int4",
        "bf16",
        "tokenizer",
        "selftest",
        "source: eagle_ovis",
    ):
        assert word in outcome.stdout


def test_the_rotation_is_named(run, int4_bundle: Path, fp32_bundle: Path) -> None:
    assert "rotation: hadamard, seed 0" in run("inspect", int4_bundle).stdout.splitlines()
    assert "rotation: none" in run("inspect", fp32_bundle).stdout.splitlines()


def test_json_adds_up(run, int4_bundle: Path) -> None:
    content = json.loads(run("inspect", int4_bundle, "--json").stdout)
    on_disk = sum(
        path.stat().st_size for path in int4_bundle.rglob("*") if path.is_file() and path.name != "valley2.json"
    )
    assert content["total_bytes"] == on_disk
    assert sum(component["bytes"] for component in content["components"]) == on_disk
    assert content["manifest"]["source"]["checkpoint"] == "eagle_ovis"


def test_without_a_directory_the_variable_counts(run, int4_bundle: Path, monkeypatch) -> None:
    monkeypatch.setenv("VALLEY2_BUNDLE", str(int4_bundle))
    assert str(int4_bundle) in run("inspect").stdout


def test_directory_that_is_no_bundle(run, tmp_path: Path) -> None:
    outcome = run("inspect", tmp_path)
    assert outcome.code == 2
    assert "is not a bundle" in outcome.error


def test_graphs_beside_the_towers_have_a_row_of_their_own(run, int4_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(int4_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "valley2.json").read_text())
    manifest["graphs"] = {"siglip": ["vision/siglip.onnx", "vision/siglip.onnx.data"]}
    for name in manifest["graphs"]["siglip"]:
        (bundle / name).write_bytes(b"1234")
        manifest["files"][name] = {"size": 4, "sha256": "0" * 64}
    (bundle / "valley2.json").write_text(json.dumps(manifest))
    (row,) = [row for row in component_rows(read_manifest(bundle)) if row.name == "graphs"]
    assert (row.precision, row.bytes) == ("ONNX, of siglip", 8)
    assert "ONNX, of siglip" in run("inspect", bundle).stdout
