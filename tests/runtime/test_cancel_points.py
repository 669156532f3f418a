"""A cancel between any two pieces of the core's work leaves a session, a tower or a picture as good as new.

The core has a hook for these tests: it cancels at a look of a given number, and counts the looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cffi import FFI
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge import Valley2
from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import Cancelled, InputError
from valley2_edge.geometry import GeometryOptions
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.library import library_path
from valley2_edge.runtime.core.pixels import make_patches, make_tiles, plan_picture
from valley2_edge.runtime.core.tower import Tower
from valley2_edge.runtime.vision.encoder import VisionEncoder

CONFIG = TinyConfig()
PROMPT = np.random.default_rng(7).integers(0, CONFIG.vocab_size, 90).astype(np.int32)
THREADS = 2
NEVER = 2**63
TRIED = 25
"""Places of a run at which it is cancelled, spread over all of them."""


class Looks:
    """The hook of one session or tower."""

    def __init__(self, kind: str, handle: Any) -> None:
        hook = FFI()
        hook.cdef(
            f"void v2e_private_{kind}_cancel_at(void *, uint64_t); uint64_t v2e_private_{kind}_looks(const void *);"
        )
        self._handle = handle
        self._library = hook.dlopen(str(library_path()))
        self._cancel_at = getattr(self._library, f"v2e_private_{kind}_cancel_at")
        self._count = getattr(self._library, f"v2e_private_{kind}_looks")

    def cancel_at(self, look: int) -> None:
        """Counts from now on."""
        self._cancel_at(self._handle, look)

    @property
    def count(self) -> int:
        return int(self._count(self._handle))


def spread(looks: int) -> Sequence[int]:
    return sorted({int(place) for place in np.linspace(0, looks - 1, min(looks, TRIED))})


@pytest.fixture(scope="module", params=["fp32", "int4"])
def decoder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Decoder]:
    path = tmp_path_factory.mktemp("decoder")
    write_decoder(path, CONFIG, random_weights(CONFIG), request.param)
    with Decoder(path, threads=THREADS) as opened:
        yield opened


def generated(session: DecoderSession, count: int) -> list[int]:
    tokens: list[int] = []
    session.generate(GenerateOptions(max_new_tokens=count, speculation="off"), tokens.append)
    return tokens


def whole_answer(decoder: Any, count: int = 8) -> list[int]:
    with decoder.session(reuse="off") as session:
        session.prefill([PROMPT])
        return generated(session, count)


def looks_of(session: DecoderSession, work: Callable[[], object]) -> int:
    looks = Looks("session", session.handle)
    looks.cancel_at(NEVER)
    work()
    session.resume()
    return looks.count


def test_prefill_cancelled_anywhere_leaves_the_next_answer_unchanged(decoder: Decoder) -> None:
    expected = whole_answer(decoder)
    with decoder.session(prefill_chunk=32, reuse="off") as session:
        looks = Looks("session", session.handle)
        everything = looks_of(session, lambda: session.prefill([PROMPT]))
        assert everything > 3 * 8 * CONFIG.num_hidden_layers  # of three chunks, some of every matrix and of attention
        for look in spread(everything):
            session.truncate(0)
            looks.cancel_at(look)
            with pytest.raises(Cancelled):
                session.prefill([PROMPT])
            # Each thread ends its own piece, and the kernels inside of it; then the region ends.
            assert looks.count <= look + 1 + 8 * THREADS
            assert session.length == 0
            session.resume()
            session.prefill([PROMPT])
            assert generated(session, 8) == expected


def test_decode_cancelled_anywhere_goes_on_where_it_stopped(decoder: Decoder) -> None:
    expected = whole_answer(decoder)
    with decoder.session(reuse="off") as session:
        looks = Looks("session", session.handle)
        session.prefill([PROMPT])
        everything = looks_of(session, lambda: generated(session, 8))
        for look in spread(everything):
            session.truncate(0)
            session.prefill([PROMPT])
            seen: list[int] = []
            looks.cancel_at(look)
            with pytest.raises(Cancelled):
                session.generate(GenerateOptions(max_new_tokens=8, speculation="off"), seen.append)
            assert looks.count <= look + 1 + 8 * THREADS
            assert session.length == len(PROMPT) + len(seen)  # every reported token is in the session
            session.resume()
            assert seen + (generated(session, 8 - len(seen)) if len(seen) < 8 else []) == expected


def cancelled_in_its_third_step(decoder: Any, **options: Any) -> DecoderSession:
    """A session with the prompt and three tokens, of which the last was reported but not decoded."""
    session = decoder.session(**options)
    session.prefill([PROMPT])
    seen: list[int] = []

    def receive(token: int) -> None:
        seen.append(token)
        if len(seen) == 3:
            session.cancel()

    with pytest.raises(Cancelled):
        session.generate(GenerateOptions(max_new_tokens=8, speculation="off"), receive)
    session.resume()
    assert session.length == len(PROMPT) + 3
    return session


def test_prefill_after_a_cancelled_step_sees_its_token(decoder: Decoder) -> None:
    with decoder.session(reuse="off") as other:
        other.prefill([np.concatenate([PROMPT, np.array(whole_answer(decoder)[:3], np.int32), PROMPT[:9]])])
        expected = generated(other, 8)
    with cancelled_in_its_third_step(decoder, reuse="off") as session:
        session.prefill([PROMPT[:9]])
        assert generated(session, 8) == expected


def test_cancelled_step_has_no_logits_yet_and_can_be_forgotten(decoder: Decoder) -> None:
    with cancelled_in_its_third_step(decoder, reuse="off") as session:
        with pytest.raises(InputError, match="0 are kept"):
            session.logits()
        session.truncate(len(PROMPT) + 2)
        session.prefill([np.array(whole_answer(decoder)[2:3], np.int32)])
        assert generated(session, 5) == whole_answer(decoder)[3:]


def test_cancelled_step_is_shared_with_no_other_session(decoder: Decoder) -> None:
    """What is not in the cache is not left for others, and what is shared is not written to."""
    answer = whole_answer(decoder)
    first = cancelled_in_its_third_step(decoder, reuse="auto")
    first.truncate(first.length)  # leaves its positions
    with decoder.session(reuse="auto") as second:
        second.prefill([np.concatenate([PROMPT, np.array(answer[:4], np.int32)])])
        assert second.counters.reused_positions == len(PROMPT) + 2
        assert generated(second, 4) == answer[4:]
    with first:
        assert generated(first, 5) == answer[3:]


def test_saved_session_has_decoded_what_a_cancel_left(model: Valley2, tmp_path: Path) -> None:
    decoder = model.engines.decoder
    expected = whole_answer(decoder)
    with cancelled_in_its_third_step(decoder) as session:
        session.cancel()  # a file is written whole even so
        session.save(tmp_path / "saved.session")
    with decoder.load_session(tmp_path / "saved.session") as loaded:
        assert generated(loaded, 5) == expected[3:]


@pytest.fixture(scope="module")
def bundle(int8_vision_bundle: Path) -> Bundle:
    return open_bundle(int8_vision_bundle)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["siglip", "projector", "eagle"])
def test_tower_cancelled_anywhere_computes_the_same_afterwards(bundle: Bundle, kind: str) -> None:
    component = getattr(bundle.manifest, kind)
    with Tower(bundle.path(component.files[0]), threads=THREADS) as tower:
        count = 64 if kind == "eagle" else 2
        values = np.random.default_rng(0).standard_normal((count, tower.description.input_floats), np.float32)
        places = np.stack(np.divmod(np.arange(count), 8), axis=1) if kind == "eagle" else None
        expected = tower.run(values, places)
        looks = Looks("tower", tower.handle)
        looks.cancel_at(NEVER)
        tower.run(values, places)
        everything = looks.count
        assert everything > 10
        for look in spread(everything):
            looks.cancel_at(look)
            with pytest.raises(Cancelled):
                tower.run(values, places)
            # The pieces of the region that is under way each look once and end: in the projector some 50 a thread.
            assert looks.count <= look + 1 + 64 * THREADS
            tower.resume()
            np.testing.assert_array_equal(tower.run(values, places), expected)


class CountingToken(CancelToken):
    """A token that sets itself when it was asked so often."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.asked = 0
        self._limit = limit

    @property
    def cancelled(self) -> bool:
        self.asked += 1
        if self.asked > self._limit:
            self.cancel()
        return super().cancelled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "height", "width"),
    [
        (make_tiles, 3000, 4000),
        (make_tiles, 6000, 1500),
        (make_tiles, 40, 60_000),  # one row of pixels is more than passes between two looks
        (make_patches, 3000, 4000),
        (make_patches, 6000, 1500),
    ],
)
def test_cutting_a_picture_asks_often_and_stops_at_once(make: Callable[..., Any], height: int, width: int) -> None:
    options = replace(GeometryOptions(), eagle=make is make_patches)
    pixels = np.zeros((height, width, 3), np.uint8)
    plan = plan_picture(width, height, options)
    counting = CountingToken(NEVER)
    expected = make(pixels, plan, options, counting)
    # Every sample has a share in several output pixels of a resize at least; 2^21 multiply-adds pass between two looks.
    assert counting.asked >= max(1, 4 * pixels.size // 2**21)
    for limit in sorted({0, counting.asked // 2, counting.asked - 1}):
        token = CountingToken(limit)
        with pytest.raises(Cancelled):
            make(pixels, plan, options, token)
        assert token.asked == limit + 1
    for made, again in zip(make(pixels, plan, options), expected, strict=True):
        np.testing.assert_array_equal(made, again)


def test_known_picture_is_looked_up_in_pieces(bundle: Bundle) -> None:
    from valley2_edge.runtime.core.preprocess import prepare_pictures

    pixels = np.zeros((3000, 4000, 3), np.uint8)  # more than is hashed together
    pictures = prepare_pictures([pixels], bundle.manifest.architecture, Policy())
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        VisionEncoder(bundle, threads=1, cache_bytes=1 << 20).encode(pictures, token)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Iterator[Valley2]:
    # Nothing is reused, so that every question goes through every stage.
    with Valley2.load(bundle.directory, threads=THREADS, vision_cache_bytes=0, prefix_cache_bytes=0) as loaded:
        yield loaded


STAGES = [("siglip", 0), ("siglip", 1), ("eagle", 0), ("eagle", 1), ("prefill", 32), ("decode", 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "done"), STAGES)
@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01])
def test_cancel_in_each_stage_leaves_the_next_answer_unchanged(
    model: Valley2, stage: str, done: int, delay: float
) -> None:
    """From another thread, at once or a little after the stage was reached, wherever that is."""
    pixels = np.random.default_rng(1).integers(0, 256, (500, 700, 3), np.uint8)
    timers: list[threading.Timer] = []
    with closing(model.session(prefill_chunk=32)) as session, closing(model.session()) as other:

        def progress(name: str, count: int, _total: int) -> None:
            if (name, count) == (stage, done) and not timers:
                timers.append(threading.Timer(delay, session.cancel))
                timers[0].start()

        with suppress(Cancelled):
            list(session.ask("What?", images=[pixels], max_new_tokens=6, on_progress=progress))
        timers[0].join()
        kept = max(session.context_used - session.statistics.prompt_tokens, 0)
        assert session.context_used == (session.statistics.prompt_tokens + kept if kept else 0)
        if kept:
            list(other.ask("What?", images=[pixels], max_new_tokens=kept))
        assert "".join(session.ask("Again?", max_new_tokens=6)) == "".join(other.ask("Again?", max_new_tokens=6))
