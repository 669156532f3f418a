"""Embeddings of pictures that came before: when they are found, and that the answer is the same.

The core's own tests have what goes first when the budget is full, and threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from vision_backends import FakeBackend

from valley2_edge import Cancelled, InputError, Valley2
from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import Valley2Error
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.preprocess import prepare_pictures
from valley2_edge.runtime.media.images import load_picture
from valley2_edge.runtime.vision.encoder import EncodedPictures, VisionEncoder


def picture(seed: int = 1, width: int = 60, height: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(fp32_bundle: Path) -> Bundle:
    return open_bundle(fp32_bundle)


@pytest.fixture
def encoder(bundle: Bundle, fake: FakeBackend) -> VisionEncoder:
    return VisionEncoder(bundle, threads=1, engine="fake", cache_bytes=64 << 20)


def encode(encoder: VisionEncoder, bundle: Bundle, *pixels: NDArray[np.uint8], **policy: Any) -> EncodedPictures:
    prepared = prepare_pictures(pixels, bundle.manifest.architecture, Policy(**policy))
    return encoder.encode(prepared, CancelToken())


def test_picture_is_encoded_once(bundle: Bundle, encoder: VisionEncoder, fake: FakeBackend) -> None:
    first = encode(encoder, bundle, picture())
    runs = len(fake.runs)
    second = encode(encoder, bundle, picture())
    assert (first.hits, second.hits, len(fake.runs)) == (0, 1, runs)
    assert encoder.cache_bytes == first.tokens[0].nbytes
    assert np.shares_memory(first.tokens[0], second.tokens[0]) and not first.tokens[0].flags.writeable


def test_known_pictures_stand_among_new_ones_in_their_order(bundle: Bundle) -> None:
    encoder = VisionEncoder(bundle, threads=2, keep=True, cache_bytes=64 << 20)
    pictures = [picture(seed) for seed in (1, 2, 3, 2)]
    known = encode(encoder, bundle, pictures[1], pictures[0], tiles=False).tokens
    found = encode(encoder, bundle, *pictures, tiles=False)
    assert found.hits == 3
    assert [tokens.ctypes.data for tokens in found.tokens[:2]] == [tokens.ctypes.data for tokens in known[::-1]]
    assert np.array_equal(found.tokens[1], found.tokens[3]) and not np.array_equal(found.tokens[1], found.tokens[2])


def test_embeddings_outlive_the_encoder_and_its_cache(bundle: Bundle, encoder: VisionEncoder) -> None:
    tokens = encode(encoder, bundle, picture()).tokens[0]
    encoder.clear_cache()
    assert encoder.cache_bytes == 0
    encoder.close()
    assert np.unique(tokens).tolist() == [0.25]


def test_file_format_and_metadata_do_not_matter(bundle: Bundle, encoder: VisionEncoder, tmp_path: Path) -> None:
    upright = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 8  # lies on its side
    upright.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=exif)
    upright.convert("RGBA").save(tmp_path / "alpha.webp", lossless=True)
    sources = [picture(), upright, tmp_path / "turned.png", tmp_path / "alpha.webp"]
    assert [encode(encoder, bundle, load_picture(source)).hits for source in sources] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "other", [{"eagle": False}, {"tiles": False}, {"eagle_max_tokens": 100}, {"eagle_min_tokens": 9}]
)
def test_other_treatment_is_another_picture(bundle: Bundle, encoder: VisionEncoder, other: dict[str, Any]) -> None:
    encode(encoder, bundle, picture())
    assert encode(encoder, bundle, picture(), **other).hits == 0


def test_shape_belongs_to_the_picture(bundle: Bundle, encoder: VisionEncoder) -> None:
    encode(encoder, bundle, picture(width=60, height=40))
    assert encode(encoder, bundle, picture().reshape(60, 40, 3)).hits == 0


def test_budget_of_0_keeps_nothing(bundle: Bundle, encoder: VisionEncoder) -> None:
    encode(encoder, bundle, picture())
    encoder.resize_cache(0)
    found = [encode(encoder, bundle, picture()) for _ in range(2)]
    assert [turn.hits for turn in found] == [0, 0] and encoder.cache_bytes == encoder.cache_budget_bytes == 0


def test_cancelled_turn_leaves_nothing(bundle: Bundle, encoder: VisionEncoder, fake: FakeBackend) -> None:
    prepared = prepare_pictures([picture()], bundle.manifest.architecture, Policy())
    token = CancelToken()
    with pytest.raises(Cancelled):
        encoder.encode(prepared, token, lambda stage, done, _total: token.cancel() if stage == "eagle" else None)
    assert fake.runs and encoder.cache_bytes == 0


def test_answer_about_a_known_picture_is_the_same(fp32_bundle: Path) -> None:
    def ask(model: Valley2) -> tuple[str, int, int]:
        session = model.session()
        text = "".join(session.ask("What?", images=[picture()], max_new_tokens=8))
        return text, session.statistics.vision_cache_hits, session.statistics.vision_cache_bytes

    with Valley2.load(fp32_bundle, threads=2, vision_cache_bytes=0) as model:
        expected, hits, size = ask(model)
        assert hits == size == 0
    with Valley2.load(fp32_bundle, threads=2) as model:
        first, again = ask(model), ask(model)
        assert (first[0], again[0], first[1], again[1]) == (expected, expected, 0, 1)
        assert first[2] == again[2] == model.engines.vision.cache_bytes > 0
        engines = model.engines
    with pytest.raises(Valley2Error, match="closed"):
        engines.vision.encode(prepare_pictures([picture()], engines.architecture, Policy()), CancelToken())


def test_negative_budget_is_refused(fp32_bundle: Path) -> None:
    with pytest.raises(InputError, match="vision_cache_bytes is -1"):
        Valley2.load(fp32_bundle, vision_cache_bytes=-1)
