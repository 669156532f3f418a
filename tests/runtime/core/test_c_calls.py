"""What a caller of the C header may get wrong: every case is a status and a sentence, never a crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import BudgetError, InputError
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import array_pointer, new_struct, struct_array
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.library import check, library

CONFIG = TinyConfig(num_hidden_layers=1)
IDS = np.arange(8, dtype=np.int32)
HUGE = 2**64 - 1


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoder]:
    directory = tmp_path_factory.mktemp("decoder")
    write_decoder(directory, CONFIG, random_weights(CONFIG))
    with Decoder(directory, threads=1) as opened:
        yield opened


@pytest.fixture
def session(decoder: Decoder) -> Iterator[DecoderSession]:
    with decoder.session(context_length=64) as opened:
        yield opened


def prefill(session: DecoderSession, segments: Any, count: int, rows: int = 1) -> None:
    check(library().v2e_decoder_session_prefill(session.handle, segments, count, rows, ffi.NULL, ffi.NULL))


def shifted(array: npt.NDArray[Any], kind: str) -> Any:
    """A pointer to the array's values one byte behind where they may lie; the bytes are there."""
    return ffi.cast(f"{kind} *", array.ctypes.data + 1)


@pytest.mark.parametrize("counts", [(1, HUGE, 1), (1, HUGE), (HUGE,), (2**63, 2**63), (HUGE, HUGE, 3), (65,), (1, 64)])
@pytest.mark.parametrize("kind", ["tokens", "embeddings"])
def test_segments_beyond_the_context_are_refused_however_their_counts_add_up(
    session: DecoderSession, counts: tuple[int, ...], kind: str
) -> None:
    rows = np.zeros((8, CONFIG.hidden_size), np.float32)
    values: dict[str, Any] = {"tokens": array_pointer(IDS)} if kind == "tokens" else {"embeddings": array_pointer(rows)}
    segments = struct_array("v2e_segment", [new_struct("v2e_segment", count=count, **values) for count in counts])
    with pytest.raises(BudgetError, match="the context holds 64"):
        prefill(session, segments, len(counts))
    session.prefill([IDS])
    assert session.length == 8


def test_misaligned_arrays_are_refused(session: DecoderSession) -> None:
    ids, rows = np.zeros(9, np.int32), np.zeros((2, CONFIG.hidden_size), np.float32)
    for segment in (
        new_struct("v2e_segment", tokens=shifted(ids, "int32_t"), count=4),
        new_struct("v2e_segment", embeddings=shifted(rows, "float"), count=1),
    ):
        with pytest.raises(InputError, match="not aligned"):
            prefill(session, segment, 1)
    session.prefill([IDS])
    kept = np.zeros(CONFIG.vocab_size + 1, np.float32)
    with pytest.raises(InputError, match="logits is not aligned to the 4 bytes"):
        check(library().v2e_decoder_session_logits(session.handle, 1, shifted(kept, "float")))


def test_arrays_of_numpy_that_lie_anywhere_are_copied(decoder: Decoder, session: DecoderSession) -> None:
    rows = decoder.embed(IDS)
    content = b"?" + rows.tobytes()
    anywhere = np.frombuffer(content, np.float32, offset=1).reshape(rows.shape)
    assert not anywhere.flags.aligned
    session.prefill([anywhere])
    with decoder.session(context_length=64) as other:
        other.prefill([rows])
        np.testing.assert_array_equal(session.logits(), other.logits())


def test_more_logits_than_there_are_positions_are_those_of_all_positions(session: DecoderSession) -> None:
    segment = new_struct("v2e_segment", tokens=array_pointer(IDS), count=len(IDS))
    prefill(session, segment, 1, rows=HUGE)
    assert session.logits(8).shape == (8, CONFIG.vocab_size)
    with pytest.raises(InputError, match="8 are kept"):
        check(library().v2e_decoder_session_logits(session.handle, HUGE, array_pointer(np.zeros(1, np.float32))))


def test_more_stop_tokens_than_there_can_be_are_refused(session: DecoderSession) -> None:
    session.prefill([IDS])
    struct, reason = GenerateOptions(max_new_tokens=1).struct(), ffi.new("v2e_stop_reason *")
    struct.stop_token_count = HUGE
    with pytest.raises(InputError, match="stop_token_count"):
        check(library().v2e_decoder_session_generate(session.handle, struct, ffi.NULL, ffi.NULL, reason))


def test_more_canvases_than_a_picture_needs_are_refused() -> None:
    canvas = ffi.new("uint32_t[2]", [384, 384])
    for count in (2**63, HUGE, 5000):
        options = new_struct("v2e_geometry_options", canvases=canvas, canvas_count=count)
        with pytest.raises(InputError, match="canvas_count"):
            check(library().v2e_plan_picture(100, 100, options, new_struct("v2e_geometry")))


def test_plan_of_memory_stops_at_the_largest_number(int4_bundle: Path) -> None:
    picture = new_struct(
        "v2e_geometry", width=2**32 - 1, height=2**32 - 1, tile_count=2**32 - 1, eagle_patches=2**32 - 1
    )
    options = new_struct(
        "v2e_memory_options",
        pictures=struct_array("v2e_geometry", [picture] * 3),
        picture_count=3,
        process_bytes=HUGE,
        vision_cache_bytes=HUGE,
        prefix_cache_bytes=HUGE,
        conversation=1,
        keep_vision=1,
    )
    plan = new_struct("v2e_memory_plan")
    check(library().v2e_plan_memory(str(int4_bundle).encode(), options, plan))
    assert plan.peak_bytes == plan.tiles_phase_bytes == plan.answer_phase_bytes == HUGE
    assert plan.picture_bytes == HUGE  # four times (2^32 - 1)^2 pixels of three bytes


def test_zero_is_the_default_of_the_prefix_cache_and_a_flag_asks_for_none(int4_bundle: Path) -> None:
    for given, expected in (({}, 256 << 20), ({"prefix_cache_bytes": 4096}, 4096), ({"no_prefix_cache": 1}, 0)):
        options = new_struct(
            "v2e_memory_options", conversation=1, device=library().V2E_DEVICE_CPU, context_length=512, **given
        )
        plan = new_struct("v2e_memory_plan")
        check(library().v2e_plan_memory(str(int4_bundle).encode(), options, plan))
        assert plan.prefix_cache_bytes == expected
        opened = ffi.new("v2e_decoder **")
        model = new_struct("v2e_decoder_options", threads=1, device=library().V2E_DEVICE_CPU, **given)
        check(library().v2e_decoder_open(str(int4_bundle / "decoder").encode(), model, opened))
        state = new_struct("v2e_prefix_cache")
        check(library().v2e_decoder_prefix_cache(opened[0], state))
        library().v2e_decoder_close(opened[0])
        assert state.budget_bytes == expected


def test_zero_options_of_geometry_are_those_of_the_released_checkpoint() -> None:
    plan, small = new_struct("v2e_geometry"), new_struct("v2e_geometry")
    check(library().v2e_plan_picture(1000, 700, new_struct("v2e_geometry_options"), plan))
    assert plan.tile_count > 1 and plan.eagle_tokens > 0
    no = {"no_tiles": 1, "no_eagle": 1}
    check(library().v2e_plan_picture(1000, 700, new_struct("v2e_geometry_options", **no), small))
    assert (small.tile_count, small.eagle_tokens) == (1, 0)
