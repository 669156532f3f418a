"""Frames of video files, the right ones: what FFmpeg's own decoder gives, whatever containers and names say."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from valley2_edge.errors import Cancelled, InputError
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media import video_file
from valley2_edge.runtime.media.video import load_frames

CLIPS = Path(__file__).parent / "clips"
EIGHT_OF_40 = [19, 45, 74, 100, 130, 154, 185, 215]
"""Brightness of the frames 0 5 11 16 22 27 33 39."""


def brightness(pictures: list[np.ndarray]) -> list[int]:
    return [int(picture[-1, -1, 1]) for picture in pictures]


def corner_of_mark(picture: np.ndarray) -> str:
    red = picture[:, :, 0].astype(int) - picture[:, :, 1]
    rows, columns = np.nonzero(red > 100)
    vertical = "top" if rows.mean() < picture.shape[0] / 2 else "bottom"
    return f"{vertical} {'left' if columns.mean() < picture.shape[1] / 2 else 'right'}"


class EndlessCapture:
    """A video without an end."""

    def __init__(self, *_: object) -> None: ...

    def isOpened(self) -> bool:  # noqa: N802, the name is OpenCV's
        return True

    def get(self, _: int) -> float:
        return 0

    def set(self, *_: object) -> None: ...

    def grab(self) -> bool:
        time.sleep(0.001)
        return True

    def release(self) -> None: ...


@pytest.mark.parametrize("name", ["short-count.mpg", "recorded.webm", "mirrored.mp4", "mirrored.mkv"])
def test_frames_are_counted_and_not_believed(name: str) -> None:
    np.testing.assert_allclose(brightness(load_frames(CLIPS / name)), EIGHT_OF_40, atol=2)


def test_edit_list_leaves_frames_out() -> None:
    assert brightness(load_frames(CLIPS / "edit-list.mp4")) == [60, 80, 100, 124, 145, 170, 189, 215]


def test_damaged_tail_leaves_the_frames_before_it(tmp_path: Path) -> None:
    path = tmp_path / "cut.mpg"
    path.write_bytes((CLIPS / "short-count.mpg").read_bytes()[:6000])
    found = brightness(load_frames(path, 40))
    assert found[0] == 19
    assert found == sorted(found)
    assert 150 < found[-1] < 215


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), "top left"),
        ((-1, 0, 0, 1), "top right"),
        ((1, 0, 0, -1), "bottom left"),
        ((-1, 0, 0, -1), "bottom right"),
        ((0, 1, 1, 0), "top left"),
        ((0, 1, -1, 0), "top right"),
        ((0, -1, 1, 0), "bottom left"),
        ((0, -1, -1, 0), "bottom right"),
    ],
)
def test_display_matrices_turn_and_mirror(tmp_path: Path, matrix: tuple[int, ...], corner: str) -> None:
    content = (CLIPS / "mirrored.mp4").read_bytes()
    place = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    (tmp_path / "clip.mp4").write_bytes(
        content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[place + 36 :]
    )
    (picture,) = load_frames(tmp_path / "clip.mp4", 1)
    assert picture.shape == ((64, 96, 3) if a else (96, 64, 3))
    assert corner_of_mark(picture) == corner


def test_matroska_mirrors_as_well() -> None:
    assert corner_of_mark(load_frames(CLIPS / "mirrored.mkv", 1)[0]) == "top right"


@pytest.mark.parametrize(
    "name",
    [
        b"clip",
        b"clip.gif",
        b"movie.ts",
        b"scan.pdf",
        b"a\xff\xfe.mp4",
        b"concat:clip.mp4",
        b"http:clip.mp4",
        b"%03d.png",
        b"file:x,y|z.mp4",
        b"-i.mp4",
        b" .mp4",
        "\u00fcml\u00e4ut \u4e2d.mp4".encode(),
    ],
)
def test_names_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(name)
    shutil.copy(CLIPS / "mirrored.mp4", path)
    for other in ("clip.mp4", "000.png", "001.png"):
        if not Path(other).exists():
            Path(other).write_bytes(b"another file")
    np.testing.assert_allclose(brightness(load_frames(path)), EIGHT_OF_40, atol=2)


@pytest.mark.parametrize("name", ["concat:clip.mp4", "file:clip.mp4", "%03d.png", "http://localhost/clip.mp4"])
def test_names_are_names_of_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CLIPS / "mirrored.mp4", "clip.mp4")
    cv2.imwrite("001.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="There is no "):
        load_frames(name)


def test_no_container_opens_the_network(tmp_path: Path) -> None:
    """FFmpeg takes this text for a session description, and would listen on the port that it names."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "clip.mp4"
    text = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    path.write_bytes(text.encode() + b"a=rtpmap:96 H264/90000\n\0\0\0")
    # One that it opened would have no frame instead.
    with pytest.raises(InputError, match="not a video that OpenCV can read"):
        load_frames(path)


@pytest.mark.parametrize("content", [b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n", b"ffconcat version 1.0\nfile clip.mp4\n"])
def test_playlists_are_refused(tmp_path: Path, content: bytes) -> None:
    shutil.copy(CLIPS / "mirrored.mp4", tmp_path / "clip.mp4")
    (tmp_path / "list.mp4").write_bytes(content)
    with pytest.raises(InputError, match="name the video file itself"):
        load_frames(tmp_path / "list.mp4")


def test_options_of_others_for_ffmpeg_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp")
    load_frames(CLIPS / "recorded.webm", 1)
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "rtsp_transport;udp"
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    load_frames(CLIPS / "recorded.webm", 1)
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ


def test_undecodable_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cv2.VideoCapture

    class WithoutFrames(EndlessCapture):
        def __init__(self, *source: object) -> None:
            self._fourcc = real(*source).get(cv2.CAP_PROP_FOURCC)

        def get(self, prop: int) -> float:
            return self._fourcc if prop == cv2.CAP_PROP_FOURCC else 0

        def grab(self) -> bool:
            return False

    monkeypatch.setattr(cv2, "VideoCapture", WithoutFrames)
    with pytest.raises(InputError, match=r"OpenCV cannot decode its codec \((AV01|av01)\)"):
        load_frames(CLIPS / "av1.webm")


def test_frames_that_are_too_large_are_refused() -> None:
    with pytest.raises(InputError, match="96 x 64 pixels"):
        load_frames(CLIPS / "recorded.webm", max_pixels=96 * 64 - 1)
    with pytest.raises(InputError, match="take fewer frames"):
        load_frames(CLIPS / "recorded.webm", 5, max_pixels=96 * 64)
    assert len(load_frames(CLIPS / "recorded.webm", 4, max_pixels=96 * 64)) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip.mp4")
    for path in (tmp_path / "clip.mp4", "/dev/zero"):
        with pytest.raises(InputError, match=r"is a (pipe|device), not a"):
            load_frames(path)


def test_long_videos_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", EndlessCapture)
    token = CancelToken()
    threading.Timer(0.1, token.cancel).start()
    with pytest.raises(Cancelled):
        load_frames(CLIPS / "recorded.webm", cancel=token)


def test_cancelled_stream_ends() -> None:
    token = CancelToken()
    with (CLIPS / "recorded.webm").open("rb") as file:
        stream = video_file._CancellableStream(file, token)
        assert len(stream.read(10)) == 10
        token.cancel()
        assert stream.read(10) == b""


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"valley2-edge\[video\]"):
        load_frames(CLIPS / "recorded.webm")


def test_leaving_the_program_after_a_cancel_waits_for_the_decoder() -> None:
    """A thread that the interpreter stops inside OpenCV would end the process with an abort."""
    program = (
        "import sys, time\n"
        "from valley2_edge.errors import Cancelled\n"
        "from valley2_edge.runtime.media import video_file\n"
        "from valley2_edge.runtime.cancellation import CancelToken\n"
        "from valley2_edge.runtime.media.video import load_frames\n"
        "token, read = CancelToken(), video_file._CancellableStream.read\n"
        "def slow(stream, size=-1):\n"
        "    token.cancel(); time.sleep(0.5); return read(stream, size)\n"
        "video_file._CancellableStream.read = slow\n"
        "try: load_frames(sys.argv[1], cancel=token)\n"
        "except Cancelled: print('cancelled')\n"
    )
    command = [sys.executable, "-c", program, str(CLIPS / "recorded.webm")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "cancelled\n", "")
