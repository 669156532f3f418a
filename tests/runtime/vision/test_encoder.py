"""The vision half of a bundle: results, memory, threads, cancellation."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import BundleError, Cancelled, NumericError
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.vision.encoder import VisionEncoder

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def bundle(fp32_bundle: Path) -> Bundle:
    return open_bundle(fp32_bundle)


@pytest.fixture
def encoder(bundle: Bundle) -> VisionEncoder:
    return VisionEncoder(bundle, threads=2)


def prepared(bundle: Bundle, policy: Policy, *sizes: tuple[int, int]) -> list[PreparedPicture]:
    numbers = np.random.default_rng(3)
    pictures = [numbers.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    return prepare_pictures(pictures, bundle.manifest.architecture, policy)


def decode(decoder: Decoder) -> np.ndarray:
    with decoder.session() as session:
        session.prefill([np.arange(1, 40, dtype=np.int32)])
        return session.logits(1)


def test_recorded_features(bundle: Bundle, encoder: VisionEncoder) -> None:
    case = "tiny30x20"
    expected = load_file(GOLDEN / "fwd" / "eagle_ovis" / f"{case}.safetensors")
    ids = expected["input_ids"].tolist()
    with np.load(GOLDEN / "inputs" / f"{case}.npz") as archive:
        pictures = [archive["image0"]]
    (picture,) = prepare_pictures(pictures, bundle.manifest.architecture, Policy.of_reference("repo"))
    (tokens,) = encoder.encode([picture], CancelToken()).tokens
    place = ids.index(-200)
    reference = expected["inputs_embeds"][place : place + picture.tokens]
    assert tokens.shape == reference.shape
    assert np.linalg.norm(tokens - reference) <= 1e-4 * np.linalg.norm(reference)


def test_progress_and_times_cover_every_tile_and_picture(bundle: Bundle, encoder: VisionEncoder) -> None:
    pictures = prepared(bundle, Policy(), (60, 40), (50, 50))
    steps: list[tuple[str, int, int]] = []
    encoded = encoder.encode(pictures, CancelToken(), lambda *step: steps.append(step))
    assert steps == [("siglip", done, 2) for done in range(3)] + [("eagle", done, 2) for done in range(3)]
    assert [len(tokens) for tokens in encoded.tokens] == [picture.tokens for picture in pictures]
    assert min(encoded.times.siglip, encoded.times.projector, encoded.times.eagle, encoded.times.load) > 0


def test_without_eagle_its_engine_is_not_loaded(bundle: Bundle, encoder: VisionEncoder) -> None:
    (picture,) = prepared(bundle, Policy(eagle=False), (30, 20))
    (tokens,) = encoder.encode([picture], CancelToken()).tokens
    assert len(tokens) == picture.geometry.siglip_tokens == picture.tokens
    assert set(encoder.providers) == {"siglip", "projector"}


def test_no_pictures_load_nothing(encoder: VisionEncoder) -> None:
    assert encoder.encode([], CancelToken()).tokens == []
    assert encoder.providers == {}


def test_towers_are_never_in_memory_together_and_go_after_use(bundle: Bundle, encoder: VisionEncoder) -> None:
    loaded: dict[str, frozenset[str]] = {}
    pictures = prepared(bundle, Policy(), (30, 20))
    encoder.encode(pictures, CancelToken(), lambda stage, done, total: loaded.update({stage: encoder.loaded}))
    assert loaded == {"siglip": {"siglip", "projector"}, "eagle": {"eagle"}}
    assert encoder.loaded == frozenset()


def test_kept_engines_stay(bundle: Bundle) -> None:
    encoder = VisionEncoder(bundle, threads=2, keep=True)
    encoder.encode(prepared(bundle, Policy(), (30, 20)), CancelToken())
    assert encoder.loaded == {"siglip", "projector", "eagle"}
    encoder.release()
    assert encoder.loaded == frozenset()


@pytest.mark.parametrize("stage", ["siglip", "eagle"])
def test_cancel_between_steps(bundle: Bundle, encoder: VisionEncoder, stage: str) -> None:
    token = CancelToken()
    pictures = prepared(bundle, Policy(), (60, 40), (50, 50))
    seen: list[tuple[str, int]] = []

    def progress(name: str, done: int, total: int) -> None:
        seen.append((name, done))
        if (name, done) == (stage, 1):
            token.cancel()

    with pytest.raises(Cancelled):
        encoder.encode(pictures, token, progress)
    assert seen[-1] == (stage, 1)
    assert encoder.loaded == frozenset()
    token.clear()
    assert len(encoder.encode(pictures, token).tokens) == 2


def test_cancel_inside_eagle(bundle: Bundle, encoder: VisionEncoder) -> None:
    token = CancelToken()
    pictures = prepared(bundle, Policy(eagle_preset="full"), (1400, 1400))
    timers: list[threading.Timer] = []

    def progress(name: str, done: int, total: int) -> None:
        if name == "eagle" and done == 0:
            timers.append(threading.Timer(0.3, token.cancel))
            timers[0].start()

    with pytest.raises(Cancelled):
        encoder.encode(pictures, token, progress)


def test_turns_wait_for_each_other_and_can_be_cancelled_while_they_wait(bundle: Bundle, encoder: VisionEncoder) -> None:
    pictures = prepared(bundle, Policy(), (30, 20))
    waiting = CancelToken()
    outcome: list[Exception] = []

    def second() -> None:
        try:
            encoder.encode(pictures, waiting)
        except Cancelled as error:
            outcome.append(error)

    def progress(name: str, done: int, total: int) -> None:
        if (name, done) == ("siglip", 0):
            thread = threading.Thread(target=second)
            thread.start()
            waiting.cancel()
            thread.join()

    encoder.encode(pictures, CancelToken(), progress)
    assert len(outcome) == 1


def test_nan_names_the_stage(encoder: VisionEncoder) -> None:
    with pytest.raises(NumericError, match="siglip"):
        encoder.siglip(np.full((1, 3, 384, 384), np.nan, np.float32))


def has_threads(count: int) -> bool:
    """Whether this process has so many threads, once those that are ending have ended."""
    deadline = time.monotonic() + 10
    while (found := threads_of_this_process()) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found == count


def threads_of_this_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc/self/task")
def test_towers_compute_on_the_decoders_threads(bundle: Bundle) -> None:
    count = 5
    with Decoder(bundle.directory / "decoder", threads=count) as decoder:
        decode(decoder)
        gc.collect()  # the encoders of earlier tests, whose threads would end in the meantime
        before = threads_of_this_process()
        encoder = VisionEncoder(bundle, threads=count, model=decoder.handle, keep=True)
        encoder.encode(prepared(bundle, Policy(), (60, 40)), CancelToken())
        assert encoder.loaded == {"siglip", "projector", "eagle"}
        assert has_threads(before)
        encoder.release()
        alone = VisionEncoder(bundle, threads=count, keep=True)
        alone.encode(prepared(bundle, Policy(eagle=False), (60, 40)), CancelToken())
        assert has_threads(before + 2 * (count - 1))
        alone.release()


def test_towers_outlive_the_decoder_whose_threads_they_use(bundle: Bundle) -> None:
    pictures = prepared(bundle, Policy(), (60, 40))
    expected = VisionEncoder(bundle, threads=2).encode(pictures, CancelToken()).tokens[0]
    decoder = Decoder(bundle.directory / "decoder", threads=3)
    encoder = VisionEncoder(bundle, threads=3, model=decoder.handle, keep=True)
    encoder.encode(pictures, CancelToken())
    decoder.close()
    assert np.array_equal(encoder.encode(pictures, CancelToken()).tokens[0], expected)
    encoder.release()


@pytest.mark.slow
def test_one_session_decodes_while_another_encodes(bundle: Bundle) -> None:
    pictures = prepared(bundle, Policy(), (400, 300))
    expected = VisionEncoder(bundle, threads=2).encode(pictures, CancelToken()).tokens[0]
    done = threading.Event()
    steps = []
    with Decoder(bundle.directory / "decoder", threads=3) as decoder:
        alone = decode(decoder)

        def encode() -> None:
            try:
                encoder = VisionEncoder(bundle, threads=3, model=decoder.handle)
                found.append(encoder.encode(pictures, CancelToken()).tokens[0])
            finally:
                done.set()

        found: list[np.ndarray] = []
        other = threading.Thread(target=encode)
        other.start()
        while not done.is_set():
            steps.append(decode(decoder))
        other.join()
    assert np.array_equal(found[0], expected)
    assert steps and all(np.array_equal(step, alone) for step in steps)


def test_a_question_about_a_picture_needs_no_onnx_runtime(int4_bundle: Path, tmp_path: Path) -> None:
    ask = (
        "import sys, numpy; from valley2_edge import Valley2\n"
        "with Valley2.load(sys.argv[1], threads=1) as model:\n"
        "    pixels = numpy.zeros((40, 60, 3), numpy.uint8)\n"
        "    assert ''.join(model.chat('What?', images=[pixels], max_new_tokens=2))\n"
        "print([name for name in ('onnxruntime', 'onnx', 'cv2', 'torch') if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", ask, str(int4_bundle)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert finished.stdout == "[]\n", finished.stderr


def test_broken_tower_is_a_bundle_error(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "vision").mkdir()
    (tmp_path / "vision" / "siglip.safetensors").write_bytes(b"no tower")
    encoder = VisionEncoder(Bundle(tmp_path, bundle.manifest), threads=1)
    with pytest.raises(BundleError, match=r"siglip\.safetensors"):
        encoder.siglip(np.zeros((1, 3, 384, 384), np.float32))
