"""What a file is, told from its first bytes, and which words mean files."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from valley2_edge.runtime.media.media_kind import (
    PICTURE_ENDINGS,
    UNSUPPORTED_ENDINGS,
    VIDEO_ENDINGS,
    foreign_reason,
    is_address,
    kind_of,
    looks_like_file,
    unsupported_reason,
)


def brands(major: bytes, *compatible: bytes) -> bytes:
    content = major + b"\0\0\0\0" + b"".join(compatible)
    return (8 + len(content)).to_bytes(4, "big") + b"ftyp" + content + b"\0\0\0\x08free" * 4


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "ICO"])
def test_pictures_are_known_by_their_content(name: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, name)
    assert kind_of(stream.getvalue()) == "picture"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (brands(b"isom", b"iso2", b"mp41"), "video"),
        (brands(b"qt  ", b"qt  "), "video"),
        (brands(b"avif", b"mif1"), "picture"),
        (brands(b"mif1", b"mif1", b"avif"), "picture"),
        (brands(b"heic", b"mif1"), "heif"),
        (brands(b"mif1", b"heic"), "heif"),
        (brands(b"crx ", b"crx ", b"isom"), "foreign"),
        (b"\0\0\x10\0moov", "video"),
        (b"\x1a\x45\xdf\xa3rest", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "picture"),
        (b"RIFF\0\0\0\0WAVEfmt ", "unknown"),
        (b"\0\0\1\xbarest", "video"),
        ((b"G" + bytes(187)) * 4, "video"),
        ((bytes(4) + b"G" + bytes(187)) * 4, "video"),
        (b"%PDF-1.7", "foreign"),
        (b"\xff\x4f\xff\x51\0", "foreign"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "foreign"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', "foreign"),
        (b"#EXTM3U\n", "foreign"),
        (b"II*\0\x10\0\0\0CR\2\0", "foreign"),
        (b"Dear picture,", "unknown"),
        (b"", "unknown"),
    ],
)
def test_content_tells_the_kind(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind
    assert (foreign_reason(head) is not None) == (kind == "foreign")


def test_an_ending_has_one_meaning() -> None:
    assert not PICTURE_ENDINGS & VIDEO_ENDINGS
    assert not UNSUPPORTED_ENDINGS.keys() & (PICTURE_ENDINGS | VIDEO_ENDINGS)


@pytest.mark.parametrize(
    ("word", "is_file"),
    [
        ("IMG_2041.HEIC", True),
        ("scan.pdf", True),
        ("movie.ts", True),
        ("frames.apng", True),
        ("~/my pictures/a b.jxl", True),
        ("https://example.org/a.jpg", True),
        ("concat:a.mp4", True),
        ("photos/IMG_2041", True),
        ("~", True),
        ("photo.jgp", True),
        ("and/or?", False),
        ("What does it say in receipt.png", False),
        ("What is this?", False),
        ("receipt", False),
        ("Read it.", False),
    ],
)
def test_words_that_mean_files(word: str, is_file: bool) -> None:
    assert looks_like_file(word) is is_file


def test_what_is_never_read_has_a_sentence() -> None:
    assert "export the page as a picture" in str(unsupported_reason("a/b.PDF"))
    assert "download the file first" in str(unsupported_reason("http://example.org/a.jpg"))
    assert unsupported_reason("a.jpg") is None
    assert not is_address("a:b.jpg")
