"""The vision encoder as a caller of the C header sees it: the manifest names its towers, and mistakes are sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import BundleError, InputError
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import array_pointer, new_struct, path_bytes, struct_array
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.pixels import geometry_options_struct
from valley2_edge.runtime.core.preprocess import prepare_pictures
from valley2_edge.runtime.vision.encoder import VisionEncoder

PIXELS = np.random.default_rng(5).integers(0, 256, (40, 60, 3), dtype=np.uint8)
NOBODY = (ffi.NULL, ffi.NULL, ffi.NULL)
"""No stop, no callback, no user data."""


@pytest.fixture(scope="module")
def vision(int8_vision_bundle: Path) -> Iterator[Any]:
    opened = ffi.new("v2e_vision **")
    options = new_struct("v2e_vision_options", threads=1, cache_bytes=1 << 20)
    check(library().v2e_vision_open(path_bytes(int8_vision_bundle), options, opened))
    yield opened[0]
    library().v2e_vision_close(opened[0])


def picture(options: Any, **changes: Any) -> Any:
    values = {"pixels": array_pointer(PIXELS), "width": 60, "height": 40, "options": options}
    return struct_array("v2e_vision_picture", [new_struct("v2e_vision_picture", **(values | changes))])


def encode(vision: Any, pictures: Any, count: int = 1) -> Any:
    made = ffi.new("v2e_embeddings *[]", 1)
    use = new_struct("v2e_vision_use")
    check(library().v2e_vision_encode(vision, pictures, count, *NOBODY, use, made))
    return made[0], use


def test_manifest_names_the_towers(vision: Any, int8_vision_bundle: Path) -> None:
    bundle = open_bundle(int8_vision_bundle)
    (prepared,) = prepare_pictures([PIXELS], bundle.manifest.architecture, Policy())
    expected = VisionEncoder(bundle, threads=2).encode([prepared], CancelToken()).tokens[0]
    embeddings, use = encode(vision, picture(geometry_options_struct(prepared.options)))
    values, tokens, hidden_size = ffi.new("float **"), ffi.new("size_t *"), ffi.new("size_t *")
    check(library().v2e_embeddings_read(embeddings, ffi.cast("const float **", values), tokens, hidden_size))
    assert (tokens[0], hidden_size[0]) == expected.shape
    size = expected.nbytes
    assert np.array_equal(np.frombuffer(ffi.buffer(values[0], size), np.float32), expected.reshape(-1))
    library().v2e_embeddings_release(embeddings)
    assert use.has_vocabulary == 1 and use.tokens > 0 and use.siglip_seconds > 0
    description = new_struct("v2e_vision_description")
    check(library().v2e_vision_describe(vision, description))
    assert ffi.string(description.engine) == b"native"
    assert ffi.string(description.eagle).startswith(b"native ")
    assert (description.eagle_loaded, description.keeps, description.cache_bytes) == (0, 0, expected.nbytes)


def test_layers_are_told_to_who_asks(int8_vision_bundle: Path) -> None:
    opened, kinds = ffi.new("v2e_vision **"), set()
    options = new_struct("v2e_vision_options", threads=1, layers=1)
    check(library().v2e_vision_open(path_bytes(int8_vision_bundle), options, opened))

    @ffi.callback("v2e_vision_callback")
    def listen(event: Any, _user_data: Any) -> int:
        kinds.add(event.kind)
        return 0

    pictures = picture(new_struct("v2e_geometry_options", no_tiles=1))
    made = ffi.new("v2e_embeddings *[]", 1)
    check(library().v2e_vision_encode(opened[0], pictures, 1, ffi.NULL, listen, ffi.NULL, ffi.NULL, made))
    library().v2e_embeddings_release(made[0])
    library().v2e_vision_close(opened[0])
    assert kinds == {library().V2E_VISION_SIGLIP, library().V2E_VISION_EAGLE, library().V2E_VISION_LAYER}


def test_missing_arguments_are_sentences(vision: Any) -> None:
    options = new_struct("v2e_geometry_options", no_tiles=1)
    for given, count, words in (
        (ffi.NULL, 1, "pictures is NULL"),
        (picture(options, pixels=ffi.NULL), 1, "pixels is NULL"),
        (picture(ffi.NULL), 1, "options struct is missing"),
        (picture(options, width=0), 1, "0 x 40"),
        (picture(options, struct_size=0), 1, "struct_size"),
        (picture(options, struct_size=16), 1, "struct_size"),
        (picture(options), 2**63, "pictures at once"),
        (picture(new_struct("v2e_geometry_options", tile_size=100)), 1, "100 x 100"),
    ):
        with pytest.raises(InputError, match=words):
            encode(vision, given, count)
    with pytest.raises(InputError, match="vision is NULL"):
        encode(ffi.NULL, picture(options))
    with pytest.raises(InputError, match="embeddings is NULL"):
        check(library().v2e_vision_encode(vision, picture(options), 1, *NOBODY, ffi.NULL, ffi.NULL))
    assert library().v2e_vision_encode(vision, ffi.NULL, 0, *NOBODY, ffi.NULL, ffi.NULL) == 0
    library().v2e_vision_close(ffi.NULL)
    library().v2e_vision_stop_close(ffi.NULL)
    library().v2e_embeddings_release(ffi.NULL)


def test_component_that_there_is_not(vision: Any) -> None:
    tile = np.zeros((1, 3 * 384 * 384), np.float32)
    given = new_struct("v2e_tower_input", values=array_pointer(tile), count=1)
    for component in (0, library().V2E_COMPONENT_DECODER, 9):
        with pytest.raises(InputError, match="no vision component"):
            check(library().v2e_vision_run(vision, component, given, 1, array_pointer(tile), 1, *NOBODY))


def test_bundle_that_there_is_not(tmp_path: Path) -> None:
    opened = ffi.new("v2e_vision **")
    with pytest.raises(BundleError, match="valley2"):
        check(library().v2e_vision_open(path_bytes(tmp_path), new_struct("v2e_vision_options"), opened))
    assert opened[0] == ffi.NULL


def test_set_stop_ends_the_next_call(vision: Any) -> None:
    stop = ffi.new("v2e_vision_stop **")
    check(library().v2e_vision_stop_open(stop))
    library().v2e_vision_stop_set(stop[0])
    pictures, made = picture(new_struct("v2e_geometry_options", no_tiles=1)), ffi.new("v2e_embeddings *[]", 1)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pictures[0].pixels = array_pointer(pixels)

    def encode_stopped() -> int:
        return int(library().v2e_vision_encode(vision, pictures, 1, stop[0], ffi.NULL, ffi.NULL, ffi.NULL, made))

    assert encode_stopped() == library().V2E_ERROR_CANCELLED
    library().v2e_vision_stop_clear(stop[0])
    assert encode_stopped() == library().V2E_OK
    library().v2e_embeddings_release(made[0])
    library().v2e_vision_stop_close(stop[0])
