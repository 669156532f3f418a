"""Bundles whose weights have absorbed a rotation, beside those whose weights have not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS
from valley2_edge.export.decoder.reference import reference_logits
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.plan import make_plan
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.vision.torch_reference import load_eagle, load_projector, load_siglip
from valley2_edge.rotation import Rotation
from valley2_edge.runtime.devices.comparison import Row
from valley2_edge.verify.golden import Golden, patches_from_bytes, tiles_from_bytes
from valley2_edge.verify.run import verify_golden

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"
CASE = "tiny30x20"
IN_BASIS = {"projector_out", "eagle_features", "inputs_embeds", "inputs_embeds sample", "inputs_embeds rows"}
"""Stages whose numbers are vectors of the residual stream."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint in int8 with exact towers, rotated and not."""
    directory = tmp_path_factory.mktemp("bundles")
    common: dict[str, Any] = {"precision": "int8", "group_size": 64, "vision_precision": "fp32"}
    return {
        "rotated": export_bundle(CHECKPOINT, directory / "rotated", ExportOptions(**common)),
        "plain": export_bundle(CHECKPOINT, directory / "plain", ExportOptions(**common, rotation="none")),
    }


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded outputs, with every stage that a recording may have; torch computes those that it lacks."""
    directory = shutil.copytree(GOLDEN, tmp_path_factory.mktemp("golden") / "golden")
    case = Golden(directory).case("eagle_ovis", CASE, "repo")
    (_, rows, columns), patches = case.preprocessing["eagle_grid_thw"][0], case.preprocessing["eagle_patches_u8"]
    embeddings = case.forward["inputs_embeds"].astype(np.float64)
    with torch.inference_mode(), Checkpoint.open(CHECKPOINT) as checkpoint:
        assert checkpoint.config.eagle is not None
        features = load_siglip(checkpoint)(torch.from_numpy(tiles_from_bytes(case.preprocessing["tiles_u8"])))
        eagle = load_eagle(checkpoint, checkpoint.config.eagle)
        more = {
            "projector_out": load_projector(checkpoint)(features).numpy(),
            "eagle_features": eagle(torch.from_numpy(patches_from_bytes(patches)), int(rows), int(columns)).numpy(),
            "inputs_embeds_rows": np.arange(0, len(embeddings), 7),
            "inputs_embeds_sample": case.forward["inputs_embeds"][::7].copy(),
            "inputs_embeds_row_sum": embeddings.sum(axis=1).astype(np.float32),
            "inputs_embeds_row_norm": np.linalg.norm(embeddings, axis=1).astype(np.float32),
        }
    save_file({**case.forward, **more}, directory / "fwd" / "eagle_ovis" / f"{CASE}.safetensors")
    return directory


def _rows(bundle: Path, golden: Path) -> dict[tuple[str, str], Row]:
    rows = verify_golden(open_bundle(bundle), Golden(golden), "eagle_ovis", "repo")
    return {(row.case, row.stage): row for row in rows}


@pytest.mark.parametrize(
    ("options", "rotation"),
    [
        (ExportOptions(), Rotation()),
        (ExportOptions(precision="int8"), Rotation()),
        (ExportOptions(rotation="hadamard"), Rotation()),
        (ExportOptions(rounding=RoundingOptions(method="rtn")), None),
        (ExportOptions(rounding=RoundingOptions(method="nf4")), None),
        (ExportOptions(rounding=RoundingOptions(method="rtn"), rotation="hadamard"), Rotation()),
        (ExportOptions(precision="int8", rounding=RoundingOptions(method="gptq")), Rotation()),
        (ExportOptions(rotation="none"), None),
        (ExportOptions(precision="fp16"), None),
        (ExportOptions(precision="fp32", rotation="none"), None),
    ],
)
def test_weights_are_rotated_where_that_gains_something(options: ExportOptions, rotation: Rotation | None) -> None:
    assert make_plan(options).rotation == rotation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(precision="fp32", rotation="hadamard"), "--precision fp32 rounds none: leave it out"),
        (ExportOptions(decoder=CHECKPOINT, rotation="none"), "does not go with --decoder"),
        (ExportOptions(rotation="dct"), "rotation 'dct' is unknown: choose hadamard or none"),  # type: ignore[arg-type]
    ],
)
def test_a_rotation_that_makes_no_sense_is_refused(options: ExportOptions, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        make_plan(options)


def test_the_rotation_is_part_of_what_decides_the_bytes() -> None:
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        plans = [make_plan(ExportOptions(rotation=rotation)) for rotation in ("hadamard", "none")]  # type: ignore[arg-type]
        assert plans[0].fingerprint(checkpoint) != plans[1].fingerprint(checkpoint)


def test_a_rotated_bundle_computes_what_the_reference_computed(bundles: dict[str, Path], golden: Path) -> None:
    found, plain = _rows(bundles["rotated"], golden), _rows(bundles["plain"], golden)
    assert found.keys() == plain.keys()
    assert {stage for _, stage in found} >= IN_BASIS
    logits = {"logits_all", "logits_last", "scores"}
    assert [key for key, row in found.items() if not row.passed and key[1] not in logits] == []
    for key, row in found.items():
        if key[1] in logits:
            assert row.error < 2 * plain[key].error < 0.6  # what int8 costs


def test_another_basis_than_the_manifest_names_is_noticed(
    bundles: dict[str, Path], golden: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(bundles["rotated"], tmp_path / "bundle")
    manifest = json.loads((bundle / "valley2.json").read_text())
    for facts in (None, {"kind": "hadamard", "seed": 1}):
        manifest["decoder"]["rotation"] = facts
        (bundle / "valley2.json").write_text(json.dumps(manifest))
        failed = {stage for (_, stage), row in _rows(bundle, golden).items() if not row.passed}
        assert failed >= IN_BASIS
        assert "siglip_features" not in failed


def test_embeddings_are_fp16_when_they_are_rotated_and_as_they_were_when_not(bundles: dict[str, Path]) -> None:
    tables = {
        name: load_file(bundle / "decoder/embeddings.safetensors")["embeddings.weight"]
        for name, bundle in bundles.items()
    }
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        own = checkpoint.tensor(EMBEDDINGS)
    assert torch.equal(tables["plain"], own)
    assert tables["rotated"].dtype == torch.float16
    turned = torch.from_numpy(Rotation().turn(own.to(torch.float64).numpy()))
    assert (tables["rotated"].to(torch.float64) - turned).norm() < 3e-4 * turned.norm()


def test_the_rounded_decoders_of_both_bases_nearly_agree(bundles: dict[str, Path]) -> None:
    logits = []
    for bundle in bundles.values():
        decoder = StoredDecoder(bundle)
        logits.append(reference_logits(decoder, decoder.embed(list(range(5, 45))), 40))
    assert (logits[0] - logits[1]).norm() < 0.05 * logits[1].norm()
    norm = load_file(bundles["rotated"] / "decoder/decoder.safetensors")["norm"]
    assert torch.equal(norm, torch.ones_like(norm))
