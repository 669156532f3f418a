"""What the core decodes is what Pillow gives for the same bytes, bit for bit; what Pillow refuses is refused."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_corpus import KINDS, bitmap, chunk, colours, encoded, png
from PIL import Image

from valley2_edge.errors import Cancelled, InputError, Valley2Warning
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.pictures import PictureHeader, decode_picture, inspect_picture
from valley2_edge.runtime.media.images import load_picture, picture_size
from valley2_edge.runtime.media.pillow_picture import read_picture, upright_size_of_file

LIBRARY_KINDS = ("JPEG", "PNG", "WEBP")
"""Kinds that a build without their libraries leaves to Pillow."""


def header_of(content: bytes, strict: bool = False) -> PictureHeader:
    return inspect_picture(content, name="The picture", strict=strict, max_pixels=DEFAULT_MAX_PICTURE_PIXELS)


def by_core(content: bytes, strict: bool = False, cancel: CancelToken | None = None) -> NDArray[np.uint8]:
    limit = DEFAULT_MAX_PICTURE_PIXELS
    token = cancel or CancelToken()
    return decode_picture(content, name="The picture", strict=strict, max_pixels=limit, cancel=token).pixels


def by_pillow(content: bytes, strict: bool = False) -> tuple[NDArray[np.uint8], int]:
    limit = DEFAULT_MAX_PICTURE_PIXELS
    return read_picture(io.BytesIO(content), "The picture", strict, limit, CancelToken())


def outcome(read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """The pixels; None when the picture is refused."""
    try:
        return read()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017, both ways are good
        return None


def skip_without_library(kind: str) -> None:
    sample = encoded(Image.fromarray(colours(8, 8)), kind) if kind in LIBRARY_KINDS else b""
    if sample and not header_of(sample).readable:
        pytest.skip(f"the core was built without the library for {kind}")


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_core_gives_what_pillow_gives(kind: str, strict: bool) -> None:
    for needed in LIBRARY_KINDS if kind == "turned" else (kind,):
        skip_without_library(needed)
    for name, content in KINDS[kind]():
        header = header_of(content, strict)
        assert header.readable, name
        expected, frames = by_pillow(content, strict)
        np.testing.assert_array_equal(by_core(content, strict), expected, err_msg=name)
        assert (header.width, header.height, header.frames) == (expected.shape[1], expected.shape[0], frames), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_cut_file_is_refused_when_pillow_refuses_it(kind: str) -> None:
    skip_without_library(kind)
    numbers = np.random.default_rng(3)
    for name, content in list(KINDS[kind]())[::6]:
        for length in {*numbers.integers(1, len(content), 8).tolist(), len(content) - 1, len(content) - 9}:
            with allowing_what_is_left_to_pillow():
                compare(content[: max(length, 1)], f"{name} cut to {length} bytes")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_damaged_file_is_refused_when_pillow_refuses_it(kind: str) -> None:
    """Progressive JPEG files are left out: releases of their library smooth what is missing in different ways."""
    skip_without_library(kind)
    numbers = np.random.default_rng(4)
    files = [(name, content) for name, content in KINDS[kind]() if "progressive" not in name]
    for number in range(150):
        name, content = files[int(numbers.integers(len(files)))]
        damaged = bytearray(content)
        places = numbers.integers(0, len(damaged), 2)
        for place in places:
            damaged[place] ^= int(numbers.integers(1, 256))
        with allowing_what_is_left_to_pillow():
            compare(bytes(damaged), f"{name} damaged at {places}, number {number}")


@contextmanager
def allowing_what_is_left_to_pillow() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(content: bytes, name: str) -> None:
    with contextlib.suppress(InputError):
        if not header_of(content).readable:
            return
    expected, found = outcome(lambda: by_pillow(content)[0]), outcome(lambda: by_core(content))
    assert (expected is None) == (found is None), name
    if expected is not None:
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("animated PNG", png(8, 8, 8, 2, before=chunk(b"acTL", bytes(8)))),
        ("a text that Pillow takes for more", png(8, 8, 8, 2, before=chunk(b"tEXt", b"exif\0Exif\0\0"))),
        ("bitmap of two bits", bitmap(8, 8, 2)),
        ("masks of one's own", bitmap(8, 8, 32, compression=3, masks=(0xFF, 0xFF0000, 0xFF00, 0), header_size=56)),
        ("more colours than a byte has", bitmap(8, 8, 8, colour_count=300)),
        ("arithmetic JPEG", encoded(Image.fromarray(colours(8, 8)), "JPEG").replace(b"\xff\xc0", b"\xff\xc9")),
        ("TIFF", encoded(Image.fromarray(colours(8, 8)), "TIFF")),
    ],
)
def test_variants_are_left_to_pillow_by_their_headers(name: str, content: bytes) -> None:
    assert not header_of(content).readable
    with pytest.raises(InputError, match="does not read"):
        by_core(content)
    expected = outcome(lambda: by_pillow(content)[0])
    found = outcome(lambda: load_picture(content))
    assert (expected is None) == (found is None), name
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


def test_sizes_are_known_before_anything_is_decoded() -> None:
    for kind in KINDS:
        for name, content in list(KINDS[kind]())[::9]:
            limit = DEFAULT_MAX_PICTURE_PIXELS
            assert picture_size(content) == upright_size_of_file(io.BytesIO(content), "The picture", limit), name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_size_above_the_limit_is_refused_by_the_header(kind: str) -> None:
    content = encoded(Image.fromarray(colours(40, 30)), kind)
    assert load_picture(content, max_pixels=1200).shape == (30, 40, 3)
    for read in (load_picture, picture_size):
        with pytest.raises(InputError, match=r"a\.x is too large with its 40 x 30 pixels: .* 1,199 pixels at most"):
            read(content, name="a.x", max_pixels=1199)


def test_small_files_of_huge_pictures_take_no_memory_for_them() -> None:
    pages = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\0;"
    huge = bitmap(60000, 60000, 8, compression=1, pixels=b"\0\1")
    for content in (pages, huge):
        with pytest.raises(InputError, match="is too large"):
            load_picture(content)


class CancelledAtOnce(CancelToken):
    """Is set as soon as a native call is registered."""

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        with super().stopping(stop):
            self.cancel()
            yield


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_cancel_reaches_the_decoder(kind: str) -> None:
    content = encoded(Image.fromarray(colours(40, 30)), kind)
    if not header_of(content).readable:
        pytest.skip(f"the core was built without the library for {kind}")
    with pytest.raises(Cancelled):
        by_core(content, cancel=CancelledAtOnce())


def test_pixels_outlive_everything_and_may_be_changed() -> None:
    pixels = colours(40, 30)
    loaded = [load_picture(encoded(Image.fromarray(pixels), "BMP")) for _ in range(50)]
    loaded[0][:] = 0
    for picture in loaded[1:]:
        np.testing.assert_array_equal(picture, pixels)
    np.testing.assert_array_equal(loaded[7][3:9, 5:].copy(), pixels[3:9, 5:])


def test_an_animation_says_its_frames() -> None:
    frames = [Image.fromarray(colours(16, 16, 3, seed)) for seed in range(3)]
    for kind in ("GIF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.warns(Valley2Warning, match="has 3 frames; only the first is used"):
            load_picture(content)


def test_pictures_that_the_core_reads_need_no_pillow(tmp_path: Path) -> None:
    paths = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        content = encoded(Image.fromarray(colours(40, 30)), kind)
        if header_of(content).readable:
            paths.append(tmp_path / kind)
            paths[-1].write_bytes(content)
    program = (
        "import sys\n"
        "from valley2_edge.runtime.media.sources import open_pictures, sort_sources\n"
        "from valley2_edge.policy import Policy\n"
        "from valley2_edge.runtime.cancellation import CancelToken\n"
        "images, video = sort_sources(sys.argv[1:], None)\n"
        "pictures = open_pictures(images, video, 8, Policy(), CancelToken(), lambda sizes, frames: None)\n"
        "assert [picture.pixels.shape for picture in pictures] == [(30, 40, 3)] * len(sys.argv[1:])\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'PIL']\n"
    )
    subprocess.run([sys.executable, "-c", program, *map(str, paths)], check=True)
