"""Pictures of every variant that the core reads, made by Pillow, OpenCV and by hand."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZES = ((1, 1), (3, 2), (17, 9), (64, 48), (33, 70))
"""Widths and heights, pixels; odd ones are where chroma and passes do not fit."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colours(width: int, height: int, channels: int = 3, seed: int = 1) -> NDArray[np.uint8]:
    """A soft slope with noise on it: (height, width, channels)."""
    numbers = np.random.default_rng(seed + 7 * width + height)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 90, width))[:, :, None]
    noise = numbers.integers(0, 46, (height, width, channels))
    return (slope * (1 + np.arange(channels) % 2) / 2 + noise).astype(np.uint8)


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    *,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    pieces: int = 1,
    seed: int = 1,
) -> bytes:
    """A PNG file of random samples, every filter in turn, written by hand: its rows are what a decoder must undo."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    numbers = np.random.default_rng(seed + depth + 31 * colour)
    passes = [(0, 1, 0, 1)]
    if interlaced:
        passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    rows = b""
    for top, down, left, right in passes:
        columns, lines = len(range(left, width, right)), len(range(top, height, down))
        if columns == 0:
            continue
        for line in range(lines):
            rows += bytes([line % 5]) + numbers.bytes((columns * channels * depth + 7) // 8)
    packed = zlib.compress(rows)
    cuts = [len(packed) * piece // pieces for piece in range(pieces + 1)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    data = b"".join(chunk(b"IDAT", packed[begin:end]) for begin, end in pairwise(cuts))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + after + chunk(b"IEND", b"")


def bitmap(
    width: int,
    height: int,
    bits: int,
    *,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    header_size: int = 40,
    colour_count: int = 0,
    palette: bytes | None = None,
    pixels: bytes | None = None,
    top_down: bool = False,
) -> bytes:
    """A Windows bitmap of random pixels, or of given ones."""
    numbers = np.random.default_rng(bits + width)
    entry = 3 if header_size == 12 else 4
    if palette is None:
        palette = numbers.bytes(entry * (colour_count or 1 << bits)) if bits <= 8 else b""
    stored = b"" if header_size >= 52 else struct.pack(f"<{len(masks)}I", *masks)
    offset = 14 + header_size + len(stored) + len(palette)
    if pixels is None:
        pixels = numbers.bytes((width * bits + 31) // 32 * 4 * height)
    if header_size == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        lines = -height if top_down else height
        header = struct.pack(
            "<IiiHHIIiiII", header_size, width, lines, 1, bits, compression, len(pixels), 0, 0, colour_count, 0
        )
        inside = struct.pack(f"<{len(masks)}I", *masks) if header_size >= 52 else b""
        header += inside + bytes(header_size - 40 - len(inside))
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + stored + palette + pixels


def exif(orientation: int, *, kind: int = 3, order: str = "<", mark: bool = True) -> bytes:
    """A TIFF directory with an orientation of some type (3: short, 4: long, 1: byte, 5: rational)."""
    value = struct.pack(order + {1: "B", 3: "H", 4: "I", 5: "I"}[kind], orientation).ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHI", 274, kind, 1) + value
    return (b"Exif\0\0" if mark else b"") + head + struct.pack(order + "H", 1) + entry + bytes(4)


def jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEG files of every kind that cameras and programs write."""
    for width, height in SIZES:
        image = Image.fromarray(colours(width, height))
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
            for progressive in (False, True):
                for quality in (30, 95):
                    name = f"{width}x{height} {sampling} quality {quality}{' progressive' if progressive else ''}"
                    yield name, encoded(image, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
        yield f"{width}x{height} restarts", encoded(image, "JPEG", restart_marker_blocks=1)
        yield f"{width}x{height} kept RGB", encoded(image, "JPEG", keep_rgb=True)
        yield f"{width}x{height} grey", encoded(image.convert("L"), "JPEG")
        yield f"{width}x{height} grey progressive", encoded(image.convert("L"), "JPEG", progressive=True)
        inks = encoded(Image.fromarray(colours(width, height, 4), "CMYK"), "JPEG", quality=90)
        yield f"{width}x{height} CMYK", inks
        yield f"{width}x{height} CMYK progressive", encoded(image.convert("CMYK"), "JPEG", progressive=True)
        yield f"{width}x{height} YCCK", inks.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
        place = inks.index(b"\xff\xee")
        yield f"{width}x{height} CMYK without Adobe", inks[:place] + inks[place + 16 :]


def pngs() -> Iterator[tuple[str, bytes]]:
    """PNG files of every depth and colour, plain and interlaced, with what else may stand in them."""
    palette = chunk(b"PLTE", np.random.default_rng(5).bytes(3 * 200))
    for width, height in SIZES:
        for depth, colour in (
            *((depth, 0) for depth in (1, 2, 4, 8, 16)),
            *((depth, colour) for colour in (2, 4, 6) for depth in (8, 16)),
            *((depth, 3) for depth in (1, 2, 4, 8)),
        ):
            for interlaced in (False, True):
                before = palette if colour == 3 else b""
                name = f"{width}x{height} depth {depth} colour {colour}{' interlaced' if interlaced else ''}"
                yield name, png(width, height, depth, colour, interlaced=interlaced, before=before)
                if colour in (0, 2, 3):
                    clear = chunk(b"tRNS", b"\0\1\0\2\0\3" if colour != 3 else b"\xff\0\x80\xff")
                    before += clear
                    yield name + " tRNS", png(width, height, depth, colour, interlaced=interlaced, before=before)
    one_clear = palette + chunk(b"tRNS", b"\xff\xff\0\xff")
    yield "one transparent colour", png(17, 9, 8, 3, before=one_clear)
    yield "no palette", png(17, 9, 8, 3)
    yield "short palette", png(17, 9, 8, 3, before=chunk(b"PLTE", bytes(range(31))))
    yield "many pieces", png(64, 48, 8, 2, pieces=9)
    yield "a palette for true colours", png(17, 9, 8, 2, before=palette)
    yield "grey alpha by Pillow", encoded(Image.fromarray(colours(30, 20, 2), "LA"), "PNG")
    yield "bits by Pillow", encoded(Image.fromarray(colours(30, 20)).convert("1"), "PNG")
    text = chunk(b"tEXt", b"Title\0A picture") + chunk(b"zTXt", b"Note\0\0" + zlib.compress(b"long " * 99))
    international = chunk(b"iTXt", b"Title\0\0\0de\0Titel\0Ein Bild") + chunk(b"gAMA", struct.pack(">I", 45455))
    profile = chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(500))) + chunk(b"abCd", b"own")
    yield "texts", png(17, 9, 8, 2, before=text + international + profile, after=text)
    rows = zlib.compress(b"".join(b"\0" + bytes([row]) * 51 for row in range(5)))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 17, 9, 8, 2, 0, 0, 0))
    yield "fewer rows than promised", head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    yield "no end", head + chunk(b"IDAT", zlib.compress((b"\0" + bytes(51)) * 9))


def webps() -> Iterator[tuple[str, bytes]]:
    """WebP files, and the first frame of animations."""
    for width, height in SIZES:
        plain, clear = Image.fromarray(colours(width, height)), Image.fromarray(colours(width, height, 4), "RGBA")
        for image, alpha in ((plain, ""), (clear, " alpha")):
            yield f"{width}x{height} lossless{alpha}", encoded(image, "WEBP", lossless=True)
            for quality in (10, 80):
                yield f"{width}x{height} quality {quality}{alpha}", encoded(image, "WEBP", quality=quality)
        yield f"{width}x{height} exact", encoded(clear, "WEBP", lossless=True, exact=True)
    frames = [Image.fromarray(colours(64, 48, 4, seed), "RGBA") for seed in range(3)]
    for lossless in (False, True):
        yield (
            f"animation lossless={lossless}",
            encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless),
        )


def gifs() -> Iterator[tuple[str, bytes]]:
    """GIF files: palettes, greys, transparent and interlaced ones, animations."""
    for width, height in SIZES:
        image = Image.fromarray(colours(width, height))
        for count in (2, 7, 64, 256):
            palette = image.quantize(count)
            yield f"{width}x{height} {count} colours", encoded(palette, "GIF")
            yield f"{width}x{height} {count} plain", encoded(palette, "GIF", interlace=False)
            yield f"{width}x{height} {count} transparent", encoded(palette, "GIF", transparency=1)
        yield f"{width}x{height} grey", encoded(image.convert("L"), "GIF")
    frames = [Image.fromarray(colours(64, 48, 3, seed)).quantize(64) for seed in range(4)]
    for disposal in (0, 1, 2, 3):
        yield (
            f"animation disposal {disposal}",
            encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal),
        )
    content = bytearray(encoded(frames[0], "GIF", optimize=False))
    place = content.index(b",\0\0\0\0")
    content[place + 1 : place + 5] = struct.pack("<HH", 5, 3)
    yield "frame beyond its screen", bytes(content)
    small = bytearray(encoded(frames[0], "GIF", transparency=3))
    small[6:10] = struct.pack("<HH", 90, 70)
    yield "frame smaller than its screen", bytes(small)
    noise = np.random.default_rng(2).integers(0, 256, (150, 160), dtype=np.uint8)
    yield "noise", encoded(Image.fromarray(noise).convert("P"), "GIF")


def bitmaps() -> Iterator[tuple[str, bytes]]:
    """Windows bitmaps of every depth, header and packing."""
    for width, height in SIZES:
        for bits in (1, 4, 8, 16, 24, 32):
            for header_size in (12, 40, 52, 56, 64, 108, 124):
                yield (
                    f"{width}x{height} {bits} bits header {header_size}",
                    bitmap(width, height, bits, header_size=header_size),
                )
            yield f"{width}x{height} {bits} bits top down", bitmap(width, height, bits, top_down=True)
        greys = b"".join(bytes([level] * 3 + [0]) for level in range(256))
        yield f"{width}x{height} greys", bitmap(width, height, 8, palette=greys)
        yield f"{width}x{height} black and white", bitmap(width, height, 1, palette=b"\0\0\0\0\xff\xff\xff\0")
        yield f"{width}x{height} few colours", bitmap(width, height, 8, colour_count=20)
        for masks in (
            (0xFF0000, 0xFF00, 0xFF, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0),
            (0xFF000000, 0xFF00, 0xFF, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
            (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
            (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
            (0, 0, 0, 0),
        ):
            name = f"{width}x{height} masks {'/'.join(f'{mask:x}' for mask in masks)}"
            yield name, bitmap(width, height, 32, compression=3, masks=masks, header_size=56)
        for masks in ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)):
            for header_size in (40, 52):
                name = f"{width}x{height} masks {masks} header {header_size}"
                yield name, bitmap(width, height, 16, compression=3, masks=masks, header_size=header_size)
    runs = b"\x05\x01\0\4\1\2\3\4\x0c\x07\0\0\x11\x02\0\0\0\2\3\1\4\5\0\0" + b"\x11\3\0\0" * 9 + b"\0\1"
    yield "runs of 8 bits", bitmap(17, 9, 8, compression=1, pixels=runs)
    yield "runs of 4 bits", bitmap(17, 9, 4, compression=2, pixels=runs)
    over = b"\x30\x05\x02\x03\0\0" * 9
    yield "runs beyond their rows", bitmap(17, 9, 8, compression=1, pixels=over)
    image = Image.fromarray(colours(30, 20))
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"by Pillow {mode}", encoded(image.convert(mode), "BMP")


def turned() -> Iterator[tuple[str, bytes]]:
    """Every orientation, in every place and form where it may be noted."""
    image = Image.fromarray(colours(33, 20))
    for orientation in range(10):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield f"{kind} orientation {orientation}", encoded(image, kind, exif=exif(orientation))
    for kind in (1, 4, 5):
        yield f"type {kind}", encoded(image, "JPEG", exif=exif(6, kind=kind))
    yield "highest byte first", encoded(image, "JPEG", exif=exif(6, order=">"))
    yield "chunk after the pixels", png(17, 9, 8, 2, after=chunk(b"eXIf", exif(6, mark=False)))
    yield "no directory", encoded(image, "JPEG", exif=b"Exif\0\0II*\0\x08")
    yield "unknown order", encoded(image, "JPEG", exif=b"Exif\0\0XX" + exif(6)[8:])
    yield "cut directory", encoded(image, "JPEG", exif=exif(6)[:20])
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    for kind in ("JPEG", "WEBP"):
        yield f"{kind} XMP", encoded(image, kind, xmp=xmp)
        yield f"{kind} XMP and EXIF", encoded(image, kind, xmp=xmp, exif=exif(3))
        yield f"{kind} XMP and EXIF of another thing", encoded(image, kind, xmp=xmp, exif=exif(3)[:16] + bytes(20))
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    yield "PNG XMP", png(17, 9, 8, 2, before=chunk(b"iTXt", text))
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp.replace(b'="8"', b">5<"))
    yield "PNG packed XMP", png(17, 9, 8, 2, before=chunk(b"iTXt", packed))


KINDS = {"JPEG": jpegs, "PNG": pngs, "WEBP": webps, "GIF": gifs, "BMP": bitmaps, "turned": turned}
"""The corpus by kind."""
