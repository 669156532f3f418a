"""Files that somebody made to harm: each is one sentence, and nothing is started, awaited or printed."""

from __future__ import annotations

import _thread
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from valley2_edge.errors import Cancelled, InputError, Valley2Warning
from valley2_edge.picture_limits import STRANGERS_MAX_PICTURE_PIXELS
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media import pillow_reader
from valley2_edge.runtime.media.images import load_picture
from valley2_edge.runtime.media.video import load_frames

KINDS = ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "ICO", "TGA"]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (48, 48, 3), dtype=np.uint8))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height) if width * height < 10**6 else b""
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def icon(content: bytes) -> bytes:
    """An ICO whose directory says 16 x 16 pixels, whatever is in it."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


@pytest.mark.parametrize("kind", KINDS)
def test_allowed_formats_are_read(kind: str) -> None:
    assert load_picture(encoded(picture(), kind)).shape == (48, 48, 3)


@pytest.mark.parametrize("kind", ["DDS", "SPIDER", "PCX", "SGI", "XBM", "MSP", "BLP", "QOI", "ICNS"])
def test_other_formats_are_refused_even_when_pillow_reads_them(kind: str) -> None:
    image = {"SPIDER": picture().convert("F"), "XBM": picture().convert("1"), "MSP": picture().convert("1")}.get(kind)
    image = image or (picture().quantize(16) if kind == "BLP" else picture())
    with pytest.raises(InputError, match="not a picture that Pillow can read"):
        load_picture(encoded(image, kind))


def test_no_program_is_started_by_what_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "eps-as.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (load_picture, load_frames):
        with pytest.raises(InputError, match="PostScript is not read: export the page"):
            read(path)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("animated", [False, True])
def test_damage_is_one_sentence_whatever_the_decoder_raises(kind: str, animated: bool) -> None:
    options = {"save_all": True, "append_images": [picture().rotate(90)]} if kind in ("GIF", "WEBP", "AVIF") else {}
    content = encoded(picture(), kind, **options)
    numbers = np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(content)
        for place in numbers.integers(0, len(content), 4):
            damaged[place] ^= int(numbers.integers(1, 256))
        if numbers.integers(2):
            del damaged[int(numbers.integers(1, len(content))) :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Valley2Warning)
            try:
                if animated:
                    pillow_frames(bytes(damaged))
                else:
                    load_picture(bytes(damaged))
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017, most of the damage is survived


def pillow_frames(content: bytes) -> None:
    from valley2_edge.runtime.media.animation import read_animation

    read_animation(io.BytesIO(content), "The clip", 8, False, 10**6, CancelToken())


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), MemoryError(), ZeroDivisionError(), RecursionError(), Exception()]
)
def test_every_exception_of_a_decoder_is_damage(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: object) -> None:
        raise error

    content = encoded(picture(), "TIFF")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(InputError, match=r"The picture is .*damaged"):
        load_picture(content)


def test_warnings_of_decoders_reach_nobody(tmp_path: Path) -> None:
    """Neither Python's nor those that C libraries write; in a process of its own, whose stderr can be seen."""
    tiff = encoded(picture(), "TIFF", compression="tiff_lzw")
    path = tmp_path / "cut.tif"
    path.write_bytes(tiff[: len(tiff) // 2] + bytes(len(tiff) // 2))
    bomb = tmp_path / "large.png"
    bomb.write_bytes(png(9999, 9999))
    exif = tmp_path / "exif.jpg"
    exif.write_bytes(encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\xff\xff" * 5))
    program = (
        "import sys, warnings; from valley2_edge.errors import InputError\n"
        "from valley2_edge.runtime.media.images import load_picture\n"
        "from valley2_edge.runtime.media.video import load_frames\n"
        "warnings.simplefilter('always')\n"
        "for path in sys.argv[1:]:\n"
        "    for read in (load_picture, load_frames):\n"
        "        try: read(path)\n"
        "        except InputError: pass\n"
    )
    packed = bytearray(encoded(picture(), "TIFF", compression="tiff_adobe_deflate"))
    packed[60:2000] = bytes(1940)
    rows = tmp_path / "rows.tif"
    rows.write_bytes(packed)
    command = [sys.executable, "-c", program, str(path), str(bomb), str(exif), str(rows)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


def test_the_filters_of_warnings_are_left_as_they_were() -> None:
    before = list(warnings.filters)
    threads = [threading.Thread(target=load_picture, args=(encoded(picture(), "TIFF"),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.slow
def test_text_in_a_picture_cannot_fill_the_memory() -> None:
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(200 << 20)))
    with pytest.raises(InputError, match="damaged"):
        load_picture(png(8, 8, bomb))


def test_the_pictures_inside_an_icon_are_measured() -> None:
    assert load_picture(icon(png(16, 16))).shape == (16, 16, 3)
    with pytest.raises(InputError, match="8000 x 6000 pixels"):
        load_picture(icon(png(8000, 6000)), max_pixels=STRANGERS_MAX_PICTURE_PIXELS)
    bitmap = struct.pack("<IiiHHIIiiII", 40, 8000, 2 * 6000, 1, 32, 0, 0, 0, 0, 0, 0)
    with pytest.raises(InputError, match="8000 x 6000 pixels"):
        load_picture(icon(bitmap), max_pixels=STRANGERS_MAX_PICTURE_PIXELS)


def test_animations_are_limited_frame_by_frame_and_together() -> None:
    frames = [Image.new("RGB", (100, 100), (value, 0, 0)) for value in range(0, 200, 10)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    def read(max_pixels: int, count: int) -> int:
        from valley2_edge.runtime.media.animation import read_animation

        return len(read_animation(io.BytesIO(content), "clip.gif", count, False, max_pixels, CancelToken()))

    assert read(10_000, 4) == 4
    with pytest.raises(InputError, match="100 x 100 pixels"):
        read(9_999, 4)
    with pytest.raises(InputError, match="take fewer frames"):
        read(10_000, 5)


def test_files_that_are_too_long_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(png(8, 8))
    os.truncate(path, 1 << 30)  # a hole: it takes no room
    with pytest.raises(InputError, match="bytes at most"):
        load_picture(path, max_pixels=STRANGERS_MAX_PICTURE_PIXELS)


def test_reading_can_be_cancelled_in_the_middle_of_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder goes on alone; nothing that it holds keeps another picture from being read."""
    begun, go_on = threading.Event(), threading.Event()
    real = ImageFile.ImageFile.load

    def slow(image: Any) -> Any:
        begun.set()
        go_on.wait(60)
        return real(image)

    content, token = encoded(picture(), "TIFF"), CancelToken()
    monkeypatch.setattr(ImageFile.ImageFile, "load", slow)
    for stop, error in ((token.cancel, Cancelled), (_thread.interrupt_main, KeyboardInterrupt)):
        begun.clear()
        threading.Thread(target=lambda stop=stop: (begun.wait(60), stop())).start()
        with pytest.raises(error):
            load_picture(content, cancel=token)
        token.clear()
    monkeypatch.setattr(ImageFile.ImageFile, "load", real)
    assert load_picture(content).shape == (48, 48, 3)
    go_on.set()


def test_hidden_default_image_of_an_animated_png(tmp_path: Path) -> None:
    """Viewers of animations show red first; the white one is for programs that know none, as the reference is."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    path = tmp_path / "clip.png"
    white.save(path, save_all=True, append_images=frames, default_image=True)
    assert [tuple(frame[4, 4].tolist()) for frame in load_frames(path)] == [RED, GREEN, BLUE]
    with pytest.warns(Valley2Warning, match="has 3 frames; only the first"):
        assert load_picture(path)[4, 4].tolist() == [255, 0, 0]
    with pytest.warns(Valley2Warning, match="has 3 frames"):
        assert load_picture(path, strict=True)[4, 4].tolist() == [255, 255, 255]


def test_animated_avif_has_its_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    path = tmp_path / "clip.dat"
    frames[0].save(path, "AVIF", save_all=True, append_images=frames[1:], quality=100)
    found = load_frames(path)
    assert [int(frame[4, 4].argmax()) for frame in found] == [0, 1, 2]


def test_raw_camera_files_do_not_give_their_preview(tmp_path: Path) -> None:
    path = tmp_path / "photo.nef"
    path.write_bytes(encoded(picture(), "TIFF"))
    with pytest.raises(InputError, match="export the photo as JPEG"):
        load_picture(path)
    dng = encoded(picture(), "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(InputError, match="export the photo as JPEG"):
        load_picture(dng)


def test_heic_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(InputError, match=r"valley2-edge\[heic\]"):
        load_picture(head)


def test_heic_with_its_extra_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(tmp_path / "IMG_2041.HEIC", quality=95)
    for name in ("IMG_2041.HEIC", "photo.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "IMG_2041.HEIC").read_bytes())
        pixels = load_picture(tmp_path / name)
        assert pixels.shape == (48, 64, 3)
        assert np.abs(pixels[20, 20].astype(int) - (200, 30, 30)).max() < 12
    with pytest.raises(InputError, match="64 x 48 pixels"):
        load_picture(tmp_path / "photo.jpg", max_pixels=3000)


def test_addresses_say_to_download_first() -> None:
    with pytest.raises(InputError, match="download the file first"):
        load_picture("https://example.org/a.jpg")


def test_no_reader_is_left_behind() -> None:
    load_picture(encoded(picture(), "TIFF"))
    assert pillow_reader._quiet._readers == 0
