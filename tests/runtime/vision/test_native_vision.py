"""A bundle whose vision half the core's own towers compute: from the export to an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import BundleError, Cancelled
from valley2_edge.options import LoadOptions
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.memory import MemorySettings, plan_memory
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.model import Valley2
from valley2_edge.runtime.vision.encoder import VisionEncoder
from valley2_edge.verify.run import self_test


@pytest.fixture
def bundle(int8_vision_bundle: Path) -> Bundle:
    return open_bundle(int8_vision_bundle)


def picture(bundle: Bundle, width: int = 500, height: int = 300) -> PreparedPicture:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return prepare_pictures([pixels], bundle.manifest.architecture, Policy(eagle_preset="fast"))[0]


def test_manifest_says_what_each_tower_is(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.eagle is not None
    assert (manifest.siglip.precision, manifest.projector.precision, manifest.eagle.precision) == (
        "int8",
        "bf16",
        "int8",
    )
    assert manifest.siglip.files == ["vision/siglip.safetensors"]
    assert 1e-3 < manifest.siglip.relative_error < 3e-2


def test_towers_in_int8_agree_with_towers_in_fp32(bundle: Bundle, fp32_bundle: Path) -> None:
    prepared = [picture(bundle)]
    rounded = VisionEncoder(bundle, threads=2).encode(prepared, CancelToken())
    exact = VisionEncoder(open_bundle(fp32_bundle), threads=2).encode(prepared, CancelToken())
    difference = np.linalg.norm(rounded.tokens[0] - exact.tokens[0]) / np.linalg.norm(exact.tokens[0])
    assert 0 < difference < 5e-2
    assert exact.vocabulary is not None and exact.vocabulary.dropped_mass == 0
    assert rounded.vocabulary is not None
    assert rounded.vocabulary.tokens == 196 * prepared[0].geometry.tile_count
    assert rounded.vocabulary.dropped_mass <= 1e-4


def test_answer_says_what_computed_it(int8_vision_bundle: Path) -> None:
    with Valley2.load(int8_vision_bundle, threads=1, isa="portable", vision_engine="native") as model:
        session = model.session(eagle_preset="fast", tiles=False)
        pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        "".join(session.ask("What is this?", images=[pixels], max_new_tokens=2))
        assert session.statistics.providers["siglip"] == ["native portable"]
        assert session.statistics.vocabulary_share is not None
        assert 0 < session.statistics.vocabulary_share <= 1
        assert session.statistics.dropped_mass <= 1e-4


def test_bundle_proves_itself_on_every_machine(bundle: Bundle) -> None:
    assert [row.stage for row in self_test(bundle, LoadOptions(threads=1)) if not row.passed] == []


def test_cancelling_ends_a_native_tower(bundle: Bundle) -> None:
    encoder, token = VisionEncoder(bundle, threads=1, keep=True), CancelToken()
    with pytest.raises(Cancelled):
        encoder.encode(
            [picture(bundle)], token, lambda stage, done, _total: token.cancel() if stage == "eagle" else None
        )
    token.clear()
    assert len(encoder.encode([picture(bundle)], token).tokens) == 1


def test_swapped_towers_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "vision").mkdir()
    for name, source in (("siglip", "eagle"), ("projector", "projector"), ("eagle", "eagle")):
        content = (bundle.directory / "vision" / f"{source}.safetensors").read_bytes()
        (tmp_path / "vision" / f"{name}.safetensors").write_bytes(content)
    encoder = VisionEncoder(Bundle(tmp_path, bundle.manifest), threads=1)
    with pytest.raises(BundleError, match="holds the tower eagle"):
        encoder.siglip(np.zeros((1, 3, 384, 384), np.float32))


def test_plan_counts_towers_as_they_are(bundle: Bundle, fp32_bundle: Path) -> None:
    settings = MemorySettings(context_length=4096, threads=1)
    rounded = plan_memory(bundle, [(1280, 720)], settings)
    assert rounded.siglip_bytes == bundle.manifest.files["vision/siglip.safetensors"].size
    exact = plan_memory(open_bundle(fp32_bundle), [(1280, 720)], settings)
    assert rounded.siglip_bytes < exact.siglip_bytes
    more = plan_memory(bundle, [(1280, 720)], MemorySettings(context_length=4096, threads=4))
    assert more.siglip_work_bytes > rounded.siglip_work_bytes > 0
    assert rounded.eagle_work_bytes > 0
