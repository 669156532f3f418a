"""What a file is, told from its first bytes; and which endings of names belong to files."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Literal

MediaKind = Literal["picture", "heif", "video", "foreign", "unknown"]
"""picture: Pillow reads it; heif: Pillow reads it with the extra; video; foreign: known, and never read; unknown."""

HEAD_BYTES = 1024
"""Bytes from the start of a file: enough for `kind_of` and `foreign_reason`."""

PICTURE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm"}
    | {".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".ico", ".avif", ".avifs", ".mpo"}
)
HEIF_ENDINGS = frozenset({".heic", ".heif", ".heics", ".heifs", ".hif"})
"""Endings of pictures that need the extra `[heic]`."""
VIDEO_ENDINGS = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob"}
    | {".ts", ".m2t", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogm", ".mxf", ".ivf"}
)

HEIF_SENTENCE = 'HEIC pictures need an extra: pip install "valley2-edge[heic]"'
URL_SENTENCE = "addresses are not opened: download the file first and name the copy"
_PDF = "PDF documents are not read: export the page as a picture (PNG or JPEG) first"
_POSTSCRIPT = "PostScript is not read: export the page as a picture (PNG or JPEG) first"
_VECTOR = "vector drawings are not read: export the drawing as a picture (PNG) first"
_JPEG_2000 = "JPEG 2000 is not read: convert the picture to PNG or JPEG first"
_JXL = "JPEG XL is not read: convert the picture to PNG or JPEG first"
_LAYERS = "layered documents are not read: export the document as a picture (PNG or JPEG) first"
_RAW = "raw camera files are not read: export the photo as JPEG or PNG first"
_PLAYLIST = "playlists are not read: name the video file itself"

UNSUPPORTED_ENDINGS: dict[str, str] = {
    ".pdf": _PDF,
    **dict.fromkeys((".eps", ".ps", ".ai"), _POSTSCRIPT),
    **dict.fromkeys((".svg", ".svgz"), _VECTOR),
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"), _JPEG_2000),
    ".jxl": _JXL,
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra"), _LAYERS),
    **dict.fromkeys((".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf"), _RAW),
    **dict.fromkeys((".rw2", ".pef", ".srw", ".3fr", ".iiq"), _RAW),
    **dict.fromkeys((".m3u", ".m3u8"), _PLAYLIST),
}
"""Endings of files that are never read, each with the sentence that says what to do."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Letters at the end, so that a question keeps its mark: "and/or?" is none.
_ONE_FILE = re.compile(r"~.*|.*[/\\].*\w|.*\w\.[A-Za-z][A-Za-z0-9]{1,4}")
_PICTURE_MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF in its two byte orders, and BigTIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\1\0",  # ICO
)
_VIDEO_MAGIC = (
    b"\x1a\x45\xdf\xa3",  # Matroska and WebM
    b"OggS",
    b"FLV\1",
    b"\0\0\1\xba",  # MPEG program stream
    b"\0\0\1\xb3",  # MPEG-1 or -2 without a container
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"DKIF\0\0",  # IVF
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
)
_FOREIGN_MAGIC = (
    (b"%PDF", _PDF),
    (b"%!PS", _POSTSCRIPT),
    (b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (b"\xff\x0a", _JXL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _JPEG_2000),
    (b"\xff\x4f\xff\x51", _JPEG_2000),
    (b"8BPS", _LAYERS),
    (b"gimp xcf", _LAYERS),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"#EXTM3U", _PLAYLIST),
    (b"ffconcat", _PLAYLIST),
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_QUICKTIME_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
"""Boxes that old QuickTime files begin with instead of ftyp."""
_TRANSPORT_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Length of a packet of a transport stream, and the place of its sync byte."""


def kind_of(head: bytes) -> MediaKind:
    """Tells what a file is, whatever its name.

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a shorter one.
    """
    if foreign_reason(head) is not None:
        return "foreign"
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head)
    if head.startswith(_PICTURE_MAGIC) or re.match(rb"P[1-6Ff]\s", head) or head[:2] == b"BM":
        return "picture"
    if head[:4] == b"RIFF":
        return {b"WEBP": "picture", b"AVI ": "video"}.get(head[8:12], "unknown")  # type: ignore[return-value]
    if head.startswith(_VIDEO_MAGIC) or head[4:8] in _QUICKTIME_BOXES or _is_transport_stream(head):
        return "video"
    return "unknown"


def foreign_reason(head: bytes) -> str | None:
    """Says what to do about a file that is known by its first bytes, and never read; None: it is none of these."""
    if head[4:12] == b"ftypcrx ":
        return _RAW
    if head[:4] == b"II*\0" and head[8:10] == b"CR":
        return _RAW
    for magic, reason in _FOREIGN_MAGIC:
        if head.startswith(magic):
            return reason
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return _VECTOR if text.startswith((b"<svg", b"<?xml")) and b"<svg" in head else None


def ending_of(name: str | os.PathLike[str]) -> str:
    """The ending of a file's name in small letters, with its dot; "" when there is none."""
    return PurePath(name).suffix.lower()


def unsupported_reason(name: str | os.PathLike[str]) -> str | None:
    """Says what to do about an address, or a file whose ending says that it is never read; None: nothing is wrong."""
    if is_address(name):
        return URL_SENTENCE
    return UNSUPPORTED_ENDINGS.get(ending_of(name))


def is_address(name: str | os.PathLike[str]) -> bool:
    """Whether this is an address of the network (https://...) and no path."""
    return isinstance(name, str) and _URL.match(name) is not None


def ends_like_file(text: str) -> bool:
    """Whether a text ends like the name of a picture, a video, or a file that is known and never read."""
    return ending_of(text) in PICTURE_ENDINGS | HEIF_ENDINGS | VIDEO_ENDINGS | UNSUPPORTED_ENDINGS.keys()


def looks_like_file(word: str) -> bool:
    """Whether a word of a command line means a file, even when there is none of that name.

    It does when it is an address, when it is one word with a separator of folders or an ending of any kind, and when it
    begins like a path and ends like a file. Text with spaces that ends in a file's name may be a question.
    """
    if is_address(word):
        return True
    if len(word.split()) == 1:
        return ends_like_file(word) or _ONE_FILE.fullmatch(word) is not None
    return ends_like_file(word) and word.startswith(("/", "./", "../", "~"))


def _kind_of_brands(head: bytes) -> MediaKind:
    size = int.from_bytes(head[:4], "big")
    compatible = head[16 : min(size, HEAD_BYTES)]
    brands = {head[8:12], *(compatible[place : place + 4] for place in range(0, len(compatible), 4))}
    if brands & {b"avif", b"avis"}:
        return "picture"
    return "heif" if brands & _HEIF_BRANDS or head[8:12] in (b"mif1", b"msf1") else "video"


def _is_transport_stream(head: bytes) -> bool:
    for length, place in _TRANSPORT_PACKETS:
        syncs = head[place::length]
        if len(syncs) >= 3 and set(syncs) == {0x47}:
            return True
    return False
