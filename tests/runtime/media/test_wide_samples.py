"""Samples of more than 8 bits: white is what the format says, never the brightest sample."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from valley2_edge.runtime.media.images import load_picture

SHORT, LONG, FLOAT = 3, 4, 11


def tiff(
    samples: bytes, width: int, bits: int, *tags: tuple[int, int, Any], order: str = "<", white: bool = False
) -> bytes:
    """A grey TIFF of one row, written by hand; `white`: zero is white."""
    entries = [
        (256, SHORT, width),
        (257, SHORT, 1),
        (258, SHORT, bits),
        (259, SHORT, 1),
        (262, SHORT, 0 if white else 1),
        (273, LONG, 8),
        (277, SHORT, 1),
        (278, SHORT, 1),
        (279, LONG, len(samples)),
        *tags,
    ]
    body = samples + b"\0" * (len(samples) % 2)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in sorted(entries):
        packed = struct.pack(order + {SHORT: "Hxx", LONG: "I", FLOAT: "f"}[kind], value)
        directory += struct.pack(f"{order}HHI", tag, kind, 1) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8 + len(body)) + body + directory + bytes(4)


def grey(content: bytes, **options: Any) -> list[int]:
    pixels = load_picture(content, **options)
    assert (pixels[:, :, 0] == pixels[:, :, 1]).all() and (pixels[:, :, 0] == pixels[:, :, 2]).all()
    return [int(value) for value in pixels[0, :, 0]]


def packed_12_bits(values: list[int]) -> bytes:
    text = "".join(f"{value:012b}" for value in values)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def test_twelve_bits_are_white_at_4095() -> None:
    ramp = [round(column / 95 * 4095) for column in (0, 24, 48, 72, 95, 95)]
    assert grey(tiff(packed_12_bits(ramp), 6, 12)) == [0, 64, 129, 193, 255, 255]


def test_twelve_dark_bits_stay_dark() -> None:
    assert grey(tiff(packed_12_bits([0, 8, 16, 24]), 4, 12)) == [0, 0, 1, 1]


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_are_white_at_65535(order: str) -> None:
    samples = struct.pack(f"{order}5H", 0, 200, 256, 32768, 65535)
    assert grey(tiff(samples, 5, 16, order=order)) == [0, 0, 1, 128, 255]


def test_white_is_zero() -> None:
    assert grey(tiff(struct.pack("<3H", 0, 32768, 65535), 3, 16, white=True)) == [255, 127, 0]
    assert grey(tiff(bytes([0, 100, 255]), 3, 8, white=True)) == [255, 155, 0]
    floats = struct.pack("<3f", 0.0, 0.5, 1.0)
    assert grey(tiff(floats, 3, 32, (339, SHORT, 3), white=True)) == [255, 127, 0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_samples_are_black_at_their_smallest(order: str) -> None:
    """The TIFF specification's default for SMinSampleValue and SMaxSampleValue: the range of the type."""
    signed = (339, SHORT, 2)
    assert grey(tiff(struct.pack("4b", -128, 0, 1, 127), 4, 8, signed, order=order)) == [0, 128, 129, 255]
    shorts = struct.pack(f"{order}4h", -32768, -1, 0, 32767)
    assert grey(tiff(shorts, 4, 16, signed, order=order)) == [0, 127, 128, 255]
    longs = struct.pack(f"{order}4i", -(2**31), -1, 0, 2**31 - 1)
    assert grey(tiff(longs, 4, 32, signed, order=order)) == [0, 127, 128, 255]


def test_unsigned_32_bits_are_white_at_their_largest() -> None:
    samples = struct.pack("<4I", 0, 65535, 2**31, 2**32 - 1)
    assert grey(tiff(samples, 4, 32)) == [0, 0, 128, 255]


def test_floats_are_white_at_1_or_where_the_file_says() -> None:
    floats = (339, SHORT, 3)
    samples = struct.pack("<5f", -1.0, 0.0, 0.5, 1.0, 300.0)
    assert grey(tiff(samples, 5, 32, floats)) == [0, 0, 128, 255, 255]
    bounds = ((340, FLOAT, -1.0), (341, FLOAT, 3.0))
    assert grey(tiff(struct.pack("<3f", -1.0, 1.0, 3.0), 3, 32, floats, *bounds)) == [0, 128, 255]


@pytest.mark.parametrize("maxval", [1, 15, 255, 256, 1000, 4095, 65535])
def test_pgm_is_white_at_its_maxval(maxval: int) -> None:
    values = [0, maxval // 2, maxval]
    packed = struct.pack(">3H", *values) if maxval > 255 else bytes(values)
    found = grey(b"P5\n3 1\n%d\n" % maxval + packed)
    assert found[0] == 0 and found[2] == 255
    assert abs(found[1] - values[1] / maxval * 255) <= 1
    colours = load_picture(b"P6\n1 1\n%d\n" % maxval + packed)[0, 0].tolist()
    assert colours == [found[0], colours[1], found[2]] and abs(colours[1] - found[1]) <= 1
    plain = b"P2\n3 1\n%d\n%d %d %d\n" % (maxval, *values)
    assert grey(plain) == found


def test_dark_sixteen_bits_are_black_in_every_format() -> None:
    samples = np.linspace(0, 200, 96).astype(np.uint16)[None]
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "PNG")
    pgm = b"P5\n96 1\n65535\n" + samples.astype(">u2").tobytes()
    for content in (stream.getvalue(), pgm, tiff(samples.tobytes(), 96, 16)):
        assert max(grey(content)) <= 1


def png(samples: NDArray[Any], colour: int) -> bytes:
    """A PNG with 16 bits, as the specification has it; colour 2 is RGB, 6 RGBA, 4 grey with alpha."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colours_of_sixteen_bits_keep_their_highest() -> None:
    colours = np.array([[[0, 200, 65535], [256, 32768, 4660]]])
    assert load_picture(png(colours, 2))[0].tolist() == [[0, 0, 255], [1, 128, 18]]
    alpha = np.dstack([colours, [[0, 65535]]])
    assert load_picture(png(alpha, 6))[0].tolist() == [[0, 0, 255], [1, 128, 18]]
    assert grey(png(np.array([[[200, 65535], [32768, 0]]]), 4)) == [0, 128]


def test_pages_of_a_file_have_their_own_tags() -> None:
    stream = io.BytesIO()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[341], tags.tagtype[341] = 2.0, FLOAT
    first = Image.fromarray(np.full((1, 2), 1.0, np.float32))
    first.save(stream, "TIFF", tiffinfo=tags)
    assert grey(stream.getvalue()) == [128, 128]


def test_strict_cuts_off_as_the_reference_does() -> None:
    samples = struct.pack("<4H", 0, 200, 256, 65535)
    assert grey(tiff(samples, 4, 16), strict=True) == [0, 200, 255, 255]
    with Image.open(io.BytesIO(tiff(samples, 4, 16))) as image:
        assert np.asarray(image.convert("RGB"))[0, :, 0].tolist() == [0, 200, 255, 255]


def test_images_without_a_file_have_pillows_usual_ranges() -> None:
    wide = Image.fromarray(np.array([[0, 32768, 65535, 70000]], np.int32))
    assert load_picture(wide)[0, :, 0].tolist() == [0, 128, 255, 255]
