"""Frames of a video."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from valley2_edge.errors import InputError
from valley2_edge.runtime.media.images import ImageSource
from valley2_edge.runtime.media.video import load_frames


def write_video(path: Path, frames: int) -> Path:
    """A video whose frame number i is grey with value 10 * i, its red channel brighter by 5 * i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        frame = np.full((48, 64, 3), 10 * index, np.uint8)
        frame[:, :, 2] += 5 * index  # OpenCV's order is blue, green, red
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.avi", 15)


@pytest.mark.parametrize(
    ("frames", "places"), [(1, [0]), (2, [0, 14]), (8, [0, 2, 4, 6, 8, 10, 12, 14]), (4, [0, 4, 9, 14])]
)
def test_frames_are_spread_evenly(video: Path, frames: int, places: list[int]) -> None:
    pictures = load_frames(video, frames)
    assert len(pictures) == frames
    for picture, place in zip(pictures, places, strict=True):
        assert picture.shape == (48, 64, 3)
        assert picture.dtype == np.uint8
        assert abs(float(picture[:, :, 1].mean()) - 10 * place) < 4


def test_frames_are_rgb(video: Path) -> None:
    last = load_frames(video, 2)[-1].astype(float)
    assert last[:, :, 0].mean() > last[:, :, 2].mean() + 50


def test_short_video_repeats_frames(tmp_path: Path) -> None:
    pictures = load_frames(write_video(tmp_path / "short.avi", 2), 4)
    assert len(pictures) == 4
    np.testing.assert_array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize(("name", "content"), [("text.mp4", "no video"), ("empty.avi", ""), ("letter.mkv", "Dear")])
def test_unreadable_video_is_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    # In a process of its own: FFmpeg takes its level of noise from the first use.
    program = (
        "import sys; from valley2_edge.errors import InputError\n"
        "from valley2_edge.runtime.media.video import load_frames\n"
        "try: load_frames(sys.argv[1])\n"
        "except InputError as error: sys.stdout.write(str(error))"
    )
    command = [sys.executable, "-c", program, str(path)]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout == f"{path} is not a video that OpenCV can read."
    assert finished.stderr == ""


def test_missing_video(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no video"):
        load_frames(tmp_path / "none.mp4")


def test_at_least_one_frame(video: Path) -> None:
    with pytest.raises(InputError, match="frames must be at least 1"):
        load_frames(video, 0)


def test_without_opencv_the_error_says_what_to_install(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"valley2-edge\[video\]"):
        load_frames(video)


def grey(value: int, width: int = 6, height: int = 4) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def values(pictures: list[np.ndarray]) -> list[int]:
    return [int(picture[0, 0, 0]) for picture in pictures]


def write_animation(path: Path, frames: int) -> Path:
    """An animation without loss whose frame number i is grey with value 20 * i."""
    first, *rest = [Image.fromarray(grey(20 * index)) for index in range(frames)]
    first.save(path, save_all=True, append_images=rest, duration=100, lossless=True)
    return path


@pytest.mark.parametrize(
    ("frames", "expected"), [(1, [0]), (2, [0, 9]), (3, [0, 4, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_listed_frames_are_spread_and_never_repeated(frames: int, expected: list[int]) -> None:
    assert values(load_frames([grey(value) for value in range(10)], frames)) == expected


def test_listed_frames_may_be_of_every_kind(tmp_path: Path) -> None:
    Image.fromarray(grey(3)).save(tmp_path / "frame.png")
    encoded = (tmp_path / "frame.png").read_bytes()
    sources: list[ImageSource] = [grey(1), Image.fromarray(grey(2)), tmp_path / "frame.png", encoded]
    assert values(load_frames(tuple(sources))) == [1, 2, 3, 3]


def test_unusable_frame_is_named() -> None:
    with pytest.raises(InputError, match="Frame 2 must be uint8"):
        load_frames([grey(1), np.zeros((4, 6, 3))])


@pytest.mark.parametrize("source", [b"GIF89a", 7, np.zeros((3, 4, 6, 3), np.uint8), iter([]), {"a": 1}])
def test_what_is_no_video_is_refused(source: object) -> None:
    with pytest.raises(InputError, match="must be a path or a list of frames"):
        load_frames(source)  # type: ignore[arg-type]


def test_empty_list_is_refused() -> None:
    with pytest.raises(InputError, match="no frame"):
        load_frames([])


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png"])
def test_animated_pictures_need_no_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    path = write_animation(tmp_path / name, 6)
    assert values(load_frames(path, 8)) == [0, 20, 40, 60, 80, 100]
    assert values(load_frames(str(path), 3)) == [0, 40, 100]


def test_partial_frames_are_shown_whole(tmp_path: Path) -> None:
    """GIF stores only the part that changes; a frame is what a viewer shows."""
    frames = [Image.fromarray(grey(0, 40, 30)) for _ in range(3)]
    for index in (1, 2):
        frames[index].paste((255, 255, 255), (0, 0, 10 * index, 5))
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    for found, expected in zip(load_frames(tmp_path / "clip.gif"), frames, strict=True):
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_still_picture_as_a_video_has_one_frame(tmp_path: Path) -> None:
    assert len(load_frames(write_animation(tmp_path / "still.png", 1))) == 1


def test_damaged_animation_is_one_sentence(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "clip.gif", 6)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"clip\.gif is damaged"):
        load_frames(path)
    path.write_text("no picture")
    with pytest.raises(InputError, match="no animated picture that Pillow can read"):
        load_frames(path)
    with pytest.raises(InputError, match="no animated picture at"):
        load_frames(tmp_path / "none.gif")


def test_video_files_still_repeat_frames_as_the_reference_does(tmp_path: Path) -> None:
    assert len(load_frames(write_video(tmp_path / "short.avi", 2), 4)) == 4
