"""Verification notices what it must notice: each stage of the reference's outputs, changed, fails its own row."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import InputError
from valley2_edge.precisions import LARGEST_VISION_ERROR
from valley2_edge.runtime.devices.comparison import (
    LOGIT_TOLERANCE,
    RELATIVE_TOLERANCE,
    Row,
    compare_absolute,
    compare_exact,
    compare_relative,
    compare_rows,
    compare_tokens,
    compare_values,
)
from valley2_edge.verify.golden import Golden, patches_from_bytes, tiles_from_bytes
from valley2_edge.verify.golden_geometry import check_geometry
from valley2_edge.verify.run import verify_golden

GOLDEN = Path(__file__).parents[1] / "golden"
CASE = "tiny30x20"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """The reference's outputs with one case, to be changed."""
    directory = shutil.copytree(GOLDEN, tmp_path / "golden")
    for path in (directory / "fwd" / "eagle_ovis").iterdir():
        if path.stem != CASE:
            path.unlink()
    return directory


def failed_stages(bundle: Path, golden: Path) -> list[str]:
    rows = verify_golden(open_bundle(bundle), Golden(golden), "eagle_ovis", "repo")
    return [row.stage for row in rows if not row.passed]


def change_tensors(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def test_unchanged_outputs_pass(fp32_bundle: Path, golden: Path) -> None:
    assert failed_stages(fp32_bundle, golden) == []


def test_towers_may_lose_of_a_picture_what_their_precision_loses_and_nothing_of_a_text(
    int8_vision_bundle: Path, fp32_bundle: Path
) -> None:
    found = {}
    for bundle in (int8_vision_bundle, fp32_bundle):
        rows = list(verify_golden(open_bundle(bundle), Golden(GOLDEN), "eagle_ovis", "repo"))
        assert [row.stage for row in rows if not row.passed] == []
        found[bundle] = {(row.case, row.stage): row.tolerance for row in rows}
    int8, fp32 = found[int8_vision_bundle], found[fp32_bundle]
    assert int8["llm_only", "logits_all"] == fp32["llm_only", "logits_all"] == LOGIT_TOLERANCE
    assert fp32[CASE, "inputs_embeds"] == RELATIVE_TOLERANCE
    assert int8[CASE, "inputs_embeds"] == LARGEST_VISION_ERROR["int8"]
    assert int8[CASE, "logits_last"] > fp32[CASE, "logits_last"] == LOGIT_TOLERANCE


@pytest.mark.parametrize(
    ("tensor", "place", "difference", "stage"),
    [
        ("inputs_embeds", (200,), 0.01, "inputs_embeds"),
        ("logits_last", (-1, 3), 0.001, "logits_last"),
        ("scores", (15, 3), 0.001, "scores"),
        ("greedy_tokens", (-1,), 1, "tokens"),
        ("input_ids", (5,), 1, "input_ids"),
    ],
)
def test_changed_output_fails_its_stage(
    fp32_bundle: Path, golden: Path, tensor: str, place: tuple[int, ...], difference: float, stage: str
) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[tensor][place] += tensors[tensor].dtype.type(difference)

    change_tensors(golden / "fwd" / "eagle_ovis" / f"{CASE}.safetensors", change)
    assert stage in failed_stages(fp32_bundle, golden)


@pytest.mark.parametrize(("tensor", "stage"), [("tiles_u8", "tiles"), ("eagle_patches_u8", "patches")])
def test_one_changed_pixel_fails(fp32_bundle: Path, golden: Path, tensor: str, stage: str) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[tensor][1, 2, 3, 4] ^= 1

    change_tensors(golden / "pre" / f"{CASE}.safetensors", change)
    assert failed_stages(fp32_bundle, golden) == [stage]


@pytest.mark.parametrize(
    ("key", "value", "stage"),
    [
        ("prompt_text", "another", "prompt"),
        ("tiles_per_image", [3], "tiles_per_image"),
        ("eagle_grid_thw", [[1, 4, 4]], "eagle_grid"),
        ("prefill_len", 1, "prefill_len"),
        ("pre_sha256", {"tiles_f32": "0"}, "tiles sha256"),
        ("pre_sha256", {"pixel_values_f32": "0"}, "patches sha256"),
    ],
)
def test_changed_record_fails_its_stage(fp32_bundle: Path, golden: Path, key: str, value: object, stage: str) -> None:
    manifest = json.loads((golden / "manifest.json").read_text())
    manifest["cases"]["eagle_ovis"][CASE][key] = value
    (golden / "manifest.json").write_text(json.dumps(manifest))
    assert failed_stages(fp32_bundle, golden) == [stage]


def test_changed_size_fails_the_geometry() -> None:
    table = Golden(GOLDEN).geometry()
    assert check_geometry(table).passed
    table[7]["unpad9"]["rows"] += 1
    row = check_geometry(table)
    assert (row.error, row.passed) == (1, False)
    assert f"{table[7]['w']} x {table[7]['h']}" in row.note


def test_cases_are_found_and_not_known() -> None:
    golden = Golden(GOLDEN)
    assert golden.case_names("hf_eagle_ovis") == ["text_only", "tiny30x20"]
    for name in ("other", "../fwd/eagle_ovis", "", ".."):
        with pytest.raises(InputError, match="no variant"):
            golden.case_names(name)


def test_hub_takes_what_its_own_preprocessing_leaves_out_from_the_other() -> None:
    golden = Golden(GOLDEN)
    hub = golden.case("hf_eagle_ovis", CASE, "hub").preprocessing
    assert {"tiles_u8", "eagle_patches_u8", "input_ids"} <= set(hub)
    assert len(hub["input_ids"]) != len(golden.case("eagle_ovis", CASE, "repo").preprocessing["input_ids"])


@pytest.mark.parametrize("missing", ["manifest.json", f"inputs/{CASE}.npz"])
def test_incomplete_outputs_are_named(fp32_bundle: Path, golden: Path, missing: str) -> None:
    (golden / missing).unlink()
    with pytest.raises(InputError, match=missing.split("/")[-1]):
        failed_stages(fp32_bundle, golden)


def test_directory_without_outputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file at .*manifest\.json"):
        Golden(tmp_path)
    with pytest.raises(InputError, match="not a directory"):
        Golden(tmp_path / "nothing")


def test_exact_counts_what_differs() -> None:
    assert compare_exact("c", "s", np.array([1, 2, 3]), np.array([1, 0, 0])).error == 2
    row = compare_exact("c", "s", np.zeros(3), np.zeros(4))
    assert (row.error, row.passed, row.note) == (math.inf, False, "shape (3,) instead of (4,)")


def test_values_show_what_differs() -> None:
    assert compare_values("c", "s", [1], [1]).passed
    row = compare_values("c", "s", "found", "expected")
    assert (row.passed, row.note) == (False, "'found' instead of 'expected'")


def test_relative_error_is_by_norm() -> None:
    found, expected = np.array([3.0, 4.0 + 5e-3], np.float32), np.array([3.0, 4.0], np.float32)
    assert compare_relative("c", "s", found, expected).error == pytest.approx(1e-3, rel=1e-3)


def test_absolute_error_is_the_largest() -> None:
    assert compare_absolute("c", "s", np.array([1.0, 2.5]), np.array([1.0, 2.0])).error == 0.5


def test_nan_never_passes() -> None:
    values = np.array([np.nan, 1.0], np.float32)
    assert not compare_absolute("c", "s", values, values).passed
    assert not compare_relative("c", "s", values, np.ones(2)).passed
    assert not Row("c", "s", math.nan, math.inf).passed


def test_one_wrong_row_is_found_by_sum_or_norm() -> None:
    values = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    sums, norms = values.sum(axis=1), np.linalg.norm(values, axis=1)
    assert compare_rows("c", "s", values, sums, norms).passed
    for change in (lambda rows: rows * 1.001, lambda rows: -rows, lambda rows: rows[::-1]):
        wrong = values.copy()
        wrong[20:22] = change(wrong[20:22])
        assert not compare_rows("c", "s", wrong, sums, norms).passed


def test_tokens_count_up_to_the_first_margin_that_the_error_could_turn() -> None:
    margins = [0.5, 0.4, 0.0009, 0.3]
    assert compare_tokens("c", "s", [1, 2, 9, 9], [1, 2, 3, 4], margins, logit_error=1e-4).passed
    assert not compare_tokens("c", "s", [1, 9, 3, 4], [1, 2, 3, 4], margins, logit_error=1e-4).passed
    assert not compare_tokens("c", "s", [1, 2, 9, 4], [1, 2, 3, 4], margins, logit_error=1e-5).passed
    assert not compare_tokens("c", "s", [1, 2], [1, 2, 3, 4], margins, logit_error=1e-5).passed


def test_stored_bytes_become_the_references_floats() -> None:
    tiles = tiles_from_bytes(np.array([[[[0, 255]]]], np.uint8))
    assert tiles.dtype == np.float32
    assert tiles.tolist() == [[[[-1.0, 1.0]]]]
    patches = patches_from_bytes(np.zeros((1, 3, 14, 14), np.uint8))
    assert patches.shape == (1, 588)
    assert patches[0, 0] == pytest.approx(-0.48145466 / 0.26862954, rel=1e-6)
