"""Pictures from anywhere, good ones and bad ones."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS, STRANGERS_MAX_PICTURE_PIXELS
from valley2_edge.runtime.media.images import load_picture


def random_picture(height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = random_picture()
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    sources = [path, str(path), content, bytearray(content), memoryview(content), Image.fromarray(pixels), pixels]
    for source in sources:
        loaded = load_picture(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, pixels)


def test_arrays_may_be_grey_or_have_alpha() -> None:
    pixels = random_picture()
    np.testing.assert_array_equal(load_picture(np.dstack([pixels, pixels[:, :, :1]])), pixels)
    np.testing.assert_array_equal(load_picture(pixels[:, :, 0]), np.repeat(pixels[:, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(array: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="must be uint8 of shape"):
        load_picture(array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_but_not_in_strict(orientation: int) -> None:
    stored = Image.fromarray(random_picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "PNG", exif=exif)
    turned = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda p: p.transpose(1, 0, 2)[::-1],
    }[orientation]
    pixels = np.asarray(stored)
    np.testing.assert_array_equal(load_picture(content), turned(pixels))
    np.testing.assert_array_equal(load_picture(content, strict=True), pixels)


def test_alpha_is_dropped_without_compositing() -> None:
    content = encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG")
    assert load_picture(content)[0, 0].tolist() == [255, 0, 0]


def test_palette_with_transparency_gives_its_colours_without_a_warning() -> None:
    image = Image.fromarray(random_picture()).quantize(16)
    content = encoded(image, "PNG", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_picture(content)
    np.testing.assert_array_equal(loaded, np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_scaled_but_not_in_strict() -> None:
    samples = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    content = encoded(Image.fromarray(samples), "PNG")
    assert load_picture(content)[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert load_picture(content, strict=True)[0, :, 0].tolist() == [0, 255, 255, 255, 255]


def test_floats_are_white_at_one_whatever_the_brightest_is() -> None:
    samples = Image.fromarray(np.array([[-1.0, 0.0, 0.5, 1.0, 200.0, np.nan]], np.float32))
    assert load_picture(samples)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]


def test_cmyk_jpeg_becomes_rgb() -> None:
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = load_picture(content)[4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_animation_gives_its_first_frame_and_says_so() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(Valley2Warning, match="3 frames; only the first"):
        loaded = load_picture(content)
    assert loaded[0, 0].tolist() == [255, 0, 0]


def test_still_gif_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_picture(encoded(Image.new("RGB", (4, 4), "red"), "GIF"))
    assert loaded[0, 0].tolist() == [255, 0, 0]


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no picture at .*none\.jpg"):
        load_picture(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is a directory"):
        load_picture(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_picture("a\0b")


def test_text_named_jpg(tmp_path: Path) -> None:
    path = tmp_path / "letter.jpg"
    path.write_text("Dear picture,")
    with pytest.raises(InputError, match=r"letter\.jpg is not a picture"):
        load_picture(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_file(kind: str) -> None:
    content = encoded(Image.fromarray(random_picture(200, 200)), kind)
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        load_picture(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_bytes_raise_input_error_or_nothing(kind: str) -> None:
    content = bytearray(encoded(Image.fromarray(random_picture(64, 64)), kind))
    numbers = np.random.default_rng(11)
    for _ in range(60):
        damaged = bytearray(content)
        for place in numbers.integers(0, len(content), 5):
            damaged[place] ^= int(numbers.integers(1, 256))
        with warnings.catch_warnings(), contextlib.suppress(InputError):
            warnings.simplefilter("ignore")
            loaded = load_picture(bytes(damaged))
            assert loaded.ndim == 3 and loaded.shape[2] == 3 and loaded.dtype == np.uint8


def test_empty_pictures() -> None:
    with pytest.raises(InputError):
        load_picture(png_header(0, 0))
    with pytest.raises(InputError, match="empty: 0 x 0"):
        load_picture(Image.new("RGB", (0, 0)))
    with pytest.raises(InputError, match="empty: 0 x 5"):
        load_picture(np.zeros((5, 0, 3), np.uint8))
    with pytest.raises(InputError):
        load_picture(b"")


@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [
        (20000, 20000, DEFAULT_MAX_PICTURE_PIXELS),
        (10001, 10000, DEFAULT_MAX_PICTURE_PIXELS),
        (8000, 6000, STRANGERS_MAX_PICTURE_PIXELS),
    ],
)
def test_bomb_is_refused_before_it_is_decoded(width: int, height: int, limit: int) -> None:
    with pytest.raises(InputError, match="is too large"):
        load_picture(png_header(width, height), max_pixels=limit)
    with pytest.raises(InputError, match=f"{limit:,} pixels at most"):
        load_picture(np.broadcast_to(np.uint8(0), (height, width, 3)), max_pixels=limit)


def test_large_but_allowed_picture_raises_no_alarm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="damaged"):  # the header is good, the content is missing
            load_picture(png_header(10000, 10000))


def test_other_types_are_named() -> None:
    with pytest.raises(InputError, match="not <class 'int'>"):
        load_picture(3)  # type: ignore[arg-type]
