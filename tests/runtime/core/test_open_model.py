"""The parts of an open model are the ones that its conversations compute with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from valley2_edge import Valley2
from valley2_edge.errors import InputError, Valley2Error
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.memory import MemorySettings
from valley2_edge.runtime.core.open_model import OpenModel
from valley2_edge.runtime.core.tokenizer import Tokenizer

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)


def test_caches_of_the_parts_are_those_of_the_sessions(int4_bundle: Path) -> None:
    with Valley2.load(int4_bundle, threads=1) as model:
        with closing(model.session()) as session:
            list(session.ask("What?", images=[PICTURE], max_new_tokens=2))
            assert model.engines.vision.cache_bytes == session.statistics.vision_cache_bytes > 0
            ids = model.engines.tokenizer.encode_text("What?")
            assert session.statistics.text_tokens > len(ids) > 0
        assert model.engines.decoder.prefix_cache.kept_bytes > 0  # what the closed session has left
        model.engines.vision.clear_cache()
        with closing(model.session()) as session:
            list(session.ask("What?", images=[PICTURE], max_new_tokens=2))
            assert session.statistics.vision_cache_hits == 0


def test_part_outlives_the_model_that_it_was_taken_from(int4_bundle: Path) -> None:
    model = OpenModel(int4_bundle, MemorySettings(threads=1), on_load=lambda done, total: None)
    decoder = Decoder.of_model(model, None)
    tokenizer = Tokenizer.of_model(model, int4_bundle)
    model.close()
    ids = np.array(tokenizer.encode_text("Hello"), np.int32)
    with Decoder(int4_bundle / "decoder", threads=1) as alone:
        np.testing.assert_array_equal(decoder.embed(ids), alone.embed(ids))
    with pytest.raises(Valley2Error, match="model is closed"):
        model.part("vision")
    decoder.close()
    tokenizer.close()


@pytest.mark.parametrize("part", ["tokenizer", "decoder", "vision"])
def test_parts_of_nothing_are_refused(part: str) -> None:
    with pytest.raises(InputError, match="The argument model is NULL"):
        check(getattr(library(), f"v2e_model_{part}")(ffi.NULL, ffi.new(f"v2e_{part} **")))
