"""The self-test holds what the bundle has to compute, and would notice a bundle that computes something else."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from valley2_edge.bundle import open_bundle
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.selftest.picture import draw_picture
from valley2_edge.precisions import VisionPrecision
from valley2_edge.runtime.core.binding import isa_available
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.selftest import SELFTEST_FILE, SELFTEST_PICTURE, SELFTEST_REFERENCE, SelfTest
from valley2_edge.verify.run import self_test

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"


@pytest.fixture(scope="module")
def selftest(int4_bundle: Path) -> SelfTest:
    return SelfTest.model_validate_json((int4_bundle / SELFTEST_FILE).read_text("utf-8"))


@pytest.fixture(scope="module")
def reference(int4_bundle: Path) -> dict[str, NDArray[np.float32]]:
    return load_file(int4_bundle / SELFTEST_REFERENCE)


def test_the_picture_is_the_same_on_every_run(int4_bundle: Path) -> None:
    with Image.open(int4_bundle / SELFTEST_PICTURE) as stored:
        assert stored.size == (160, 120)
        assert np.array_equal(np.asarray(stored), np.asarray(draw_picture()))


def test_the_prompt_asks_about_one_picture_under_the_hub_policy(selftest: SelfTest) -> None:
    assert (selftest.policy, selftest.strict) == ("hub", False)
    assert selftest.prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<im_start><image><im_end>\n"
        "What is in this picture?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert selftest.input_ids.count(-200) == 1
    # 196 of the global view; 160 x 120 keeps 14 columns and 10 or 11 of 14 rows; Eagle sees 168 x 112 pixels.
    assert selftest.siglip_tokens == 196 + 14 * 10
    assert selftest.eagle_tokens == 6 * 4
    assert selftest.prefill_length == len(selftest.input_ids) - 1 + selftest.siglip_tokens + selftest.eagle_tokens


def test_the_reference_has_every_stage(selftest: SelfTest, reference: dict[str, NDArray[np.float32]]) -> None:
    tile_rows = -(-2 * 729 // selftest.tile_stride)
    assert {name: tensor.shape for name, tensor in reference.items() if not name.startswith("_pad")} == {
        "siglip_features": (tile_rows, 144),
        "projector_tokens": (-(-2 * 196 // selftest.tile_stride), 256),
        "eagle_tokens": (24 // selftest.eagle_stride, 256),
        "embedding_sums": (selftest.prefill_length,),
        "embedding_norms": (selftest.prefill_length,),
        "logits": (selftest.logit_rows, 679),
    }
    assert all(np.isfinite(tensor).all() for tensor in reference.values())


def test_tolerances_cover_what_the_bundles_own_towers_lose(selftest: SelfTest) -> None:
    assert set(selftest.tolerances) == {
        "siglip_features",
        "projector_tokens",
        "eagle_tokens",
        "input_embeddings",
        "logits",
    }
    assert all(1e-4 <= tolerance <= 0.1 for tolerance in selftest.tolerances.values())


def _text_error(bundle: Path, selftest: SelfTest, reference: dict[str, NDArray[np.float32]], noise: float) -> float:
    """Error of the native decoder's logits, with the picture's embeddings made up from their recorded norms."""
    place = selftest.input_ids.index(-200)
    with Decoder(bundle / "decoder", activations="int16") as decoder:
        before = decoder.embed(np.array(selftest.input_ids[:place], np.int32))
        after = decoder.embed(np.array(selftest.input_ids[place + 1 :], np.int32))
    found = np.concatenate([np.linalg.norm(before, axis=1), np.linalg.norm(after * (1 + noise), axis=1)])
    norms = reference["embedding_norms"]
    expected = np.concatenate([norms[: len(before)], norms[len(norms) - len(after) :]])
    return float(np.max(np.abs(found - expected) / expected))


def test_the_text_rows_are_the_native_decoders_own_embeddings(
    int4_bundle: Path, selftest: SelfTest, reference: dict[str, NDArray[np.float32]]
) -> None:
    tolerance = selftest.tolerances["input_embeddings"]
    assert _text_error(int4_bundle, selftest, reference, noise=0) < tolerance
    assert _text_error(int4_bundle, selftest, reference, noise=2 * tolerance) > tolerance


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_test_that_was_written_where_bf16_is_widened_passes_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: VisionPrecision
) -> None:
    """The core may multiply bf16 as such here, which the exporter's machine did not foresee."""
    from valley2_edge.export.pipeline import export_bundle
    from valley2_edge.export.rounding.options import RoundingOptions
    from valley2_edge.export.vision import component

    isa = next(name for name in ("avx2", "neon", "portable") if isa_available(name))
    with monkeypatch.context() as exporter:
        exporter.setattr(component, "Tower", partial(Tower, isa=isa))
        options = ExportOptions(vision_precision=precision, rounding=RoundingOptions(method="rtn"))
        bundle = export_bundle(CHECKPOINT, tmp_path / "bundle", options)
    rows = list(self_test(open_bundle(bundle)))
    assert [row.stage for row in rows if not row.passed] == []
