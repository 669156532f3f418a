"""Embeddings of pictures that came before: when they are found, what goes first, and that the answer is the same."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from valley2_edge import Cancelled, InputError, Valley2
from valley2_edge.bundle import Manifest, open_bundle, read_manifest
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.media.images import load_picture
from valley2_edge.runtime.progress import ProgressCallback, ignore_progress
from valley2_edge.runtime.vision.cache import FoundPictures, VisionCache, engines_of
from valley2_edge.runtime.vision.encoder import EncodedPictures

SIZE = 3 * 4 * 4
"""Bytes of an embedding of `Encoder`."""


def picture(seed: int = 1, width: int = 60, height: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Encoder:
    """Stands for `VisionEncoder`: embeddings (3, 4) that tell the picture, and a record of what was asked for."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def encode(
        self,
        pictures: Sequence[PreparedPicture],
        cancel: CancelToken,
        on_progress: ProgressCallback = ignore_progress,
    ) -> EncodedPictures:
        cancel.check()
        numbers = [int(picture.pixels.sum()) for picture in pictures]
        self.seen += numbers
        return EncodedPictures([np.full((3, 4), number, np.float32) for number in numbers])


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture(scope="module")
def manifest(fp32_bundle: Path) -> Manifest:
    return read_manifest(fp32_bundle)


def prepared(manifest: Manifest, *pixels: NDArray[np.uint8], **policy: Any) -> list[PreparedPicture]:
    return prepare_pictures(pixels, manifest.architecture, Policy(**policy))


def encode(cache: VisionCache, encoder: Encoder, pictures: Sequence[PreparedPicture]) -> FoundPictures:
    return cache.encode(encoder, pictures, CancelToken())  # type: ignore[arg-type]


def test_picture_is_encoded_once(manifest: Manifest, encoder: Encoder) -> None:
    cache = VisionCache("engines", 10 * SIZE)
    first = encode(cache, encoder, prepared(manifest, picture()))
    second = encode(cache, encoder, prepared(manifest, picture()))
    assert (first.hits, second.hits, len(encoder.seen), cache.used_bytes) == (0, 1, 1, SIZE)
    assert second.tokens[0] is first.tokens[0] and not first.tokens[0].flags.writeable


def test_known_pictures_stand_among_new_ones_in_their_order(manifest: Manifest, encoder: Encoder) -> None:
    cache = VisionCache("engines", 10 * SIZE)
    pictures = [picture(seed) for seed in (1, 2, 3, 2)]
    encode(cache, encoder, prepared(manifest, pictures[1], pictures[0]))
    found = encode(cache, encoder, prepared(manifest, *pictures))
    assert [tokens[0, 0] for tokens in found.tokens] == [pixels.sum() for pixels in pictures]
    assert found.hits == 3 and len(encoder.seen) == 3


def test_file_format_and_metadata_do_not_matter(manifest: Manifest, encoder: Encoder, tmp_path: Path) -> None:
    cache = VisionCache("engines", 10 * SIZE)
    upright = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 8  # lies on its side
    upright.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=exif)
    upright.convert("RGBA").save(tmp_path / "alpha.webp", lossless=True)
    sources = [picture(), upright, tmp_path / "turned.png", tmp_path / "alpha.webp"]
    hits = [encode(cache, encoder, prepared(manifest, load_picture(source))).hits for source in sources]
    assert hits == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "other", [{"eagle": False}, {"tiles": False}, {"eagle_max_tokens": 100}, {"eagle_min_tokens": 9}]
)
def test_other_treatment_is_another_picture(manifest: Manifest, encoder: Encoder, other: dict[str, Any]) -> None:
    cache = VisionCache("engines", 10 * SIZE)
    encode(cache, encoder, prepared(manifest, picture()))
    assert encode(cache, encoder, prepared(manifest, picture(), **other)).hits == 0


def test_shape_belongs_to_the_picture(manifest: Manifest, encoder: Encoder) -> None:
    cache = VisionCache("engines", 10 * SIZE)
    encode(cache, encoder, prepared(manifest, picture(width=60, height=40)))
    assert encode(cache, encoder, prepared(manifest, picture().reshape(60, 40, 3))).hits == 0


def test_least_recently_used_goes_first(manifest: Manifest, encoder: Encoder) -> None:
    cache = VisionCache("engines", 2 * SIZE)
    one, two, three = ([*prepared(manifest, picture(seed))] for seed in range(3))
    for pictures in (one, two, one, three):
        encode(cache, encoder, pictures)
    assert cache.used_bytes == 2 * SIZE
    assert [encode(cache, encoder, pictures).hits for pictures in (one, three, two)] == [1, 1, 0]


def test_budget_is_kept_by_what_is_too_large_and_by_a_smaller_one(manifest: Manifest, encoder: Encoder) -> None:
    cache = VisionCache("engines", SIZE - 1)
    assert len(encode(cache, encoder, prepared(manifest, picture())).tokens) == 1 and cache.used_bytes == 0
    cache.resize(3 * SIZE)
    encode(cache, encoder, prepared(manifest, *[picture(seed) for seed in range(3)]))
    assert cache.used_bytes == 3 * SIZE
    cache.resize(SIZE)
    assert cache.used_bytes == SIZE
    cache.clear()
    assert cache.used_bytes == 0


def test_budget_of_0_keeps_nothing(manifest: Manifest, encoder: Encoder) -> None:
    cache = VisionCache("engines", 0)
    found = [encode(cache, encoder, prepared(manifest, picture())) for _ in range(2)]
    assert [turn.hits for turn in found] == [0, 0] and len(encoder.seen) == 2 and cache.used_bytes == 0


def test_cancelled_turn_leaves_nothing(manifest: Manifest, encoder: Encoder) -> None:
    cache, cancelled = VisionCache("engines", 10 * SIZE), CancelToken()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        cache.encode(encoder, prepared(manifest, picture()), cancelled)  # type: ignore[arg-type]
    assert cache.used_bytes == 0


def test_many_threads(manifest: Manifest) -> None:
    cache = VisionCache("engines", 3 * SIZE)
    turns = [prepared(manifest, picture(seed), picture(seed + 1)) for seed in range(4)]
    wrong: list[int] = []

    def work(index: int) -> None:
        encoder = Encoder()
        for step in range(100):
            pictures = turns[(index + step) % 4]
            found = encode(cache, encoder, pictures).tokens
            if [tokens[0, 0] for tokens in found] != [given.pixels.sum() for given in pictures]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and cache.used_bytes == 3 * SIZE


def test_engines_are_told_apart(fp32_bundle: Path, int4_bundle: Path) -> None:
    exact, rounded = (open_bundle(path, check="sizes").manifest for path in (fp32_bundle, int4_bundle))
    known = {engines_of(manifest, engine) for manifest in (exact, rounded) for engine in ("native", "ONNX Runtime")}
    assert len(known) == 4


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
        assert first[2] == again[2] == model.engines.vision_cache.used_bytes > 0
        engines = model.engines
    assert engines.vision_cache.used_bytes == 0


def test_negative_budget_is_refused(fp32_bundle: Path) -> None:
    with pytest.raises(InputError, match="vision_cache_bytes is -1"):
        Valley2.load(fp32_bundle, vision_cache_bytes=-1)
