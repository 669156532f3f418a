"""What callers give for pictures and videos, in every form that they try."""

from __future__ import annotations

import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from valley2_edge.errors import BudgetError, Cancelled, InputError
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.media.sources import load_pictures, open_pictures, sort_sources

CLIP = Path(__file__).parent / "clips" / "mirrored.mp4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value in (10, 20, 30):
        Image.new("RGB", (4, 4), (value, value, value)).save(tmp_path / f"{value}.png")
    return tmp_path


def values(images: Any, video: Any = None, frames: int = 8) -> list[int]:
    listed, clip = sort_sources(images, video)
    return [int(pixels[0, 0, 0]) for pixels in load_pictures(listed, clip, frames, Policy(), CancelToken())]


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (path for path in sorted(folder.glob("*.png"))),
        lambda folder: map(str, sorted(folder.glob("*.png"))),
        lambda folder: iter(sorted(folder.iterdir())),
        lambda folder: tuple(sorted(folder.iterdir())),
        lambda folder: itertools.chain([folder / "10.png"], [folder / "20.png", folder / "30.png"]),
        lambda folder: [Image.open(path) for path in sorted(folder.iterdir())],
        lambda folder: np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]),
    ],
)
def test_pictures_come_from_anything_that_has_an_order(folder: Path, make: Callable[[Path], Any]) -> None:
    assert values(make(folder)) == [10, 20, 30]


def test_iterators_are_used_up_once(folder: Path) -> None:
    taken = []

    def paths() -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            taken.append(path.name)
            yield path

    pictures, _ = sort_sources(paths(), None)
    assert taken == ["10.png", "20.png", "30.png"]
    for _ in range(2):
        assert len(load_pictures(pictures, None, 8, Policy(), CancelToken())) == 3


def test_one_picture_is_no_list(folder: Path) -> None:
    path = folder / "20.png"
    for source in (path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path)), np.array(0)):
        with pytest.raises(InputError, match=r"images must be a list of pictures, not one picture: put it into \[ \]"):
            sort_sources(source, None)  # type: ignore[arg-type]
        assert len(sort_sources([source], None)[0]) == 1


def test_none_is_no_picture() -> None:
    assert sort_sources(None, None) == ([], None)
    assert sort_sources((), None) == ([], None)


@pytest.mark.parametrize("images", [7, 1.5, True, {"a": 1}, {"a.png"}, io.BytesIO(b""), object()])
def test_what_is_no_list_of_pictures_is_one_sentence(images: Any) -> None:
    with pytest.raises(InputError, match="images must be"):
        sort_sources(images, None)


@pytest.mark.parametrize("wrong", [None, 7, ["a.png"], {"path": "a.png"}])
def test_wrong_elements_are_named_by_their_number(folder: Path, wrong: Any) -> None:
    with pytest.raises(InputError, match="Picture 2 must be a path"):
        sort_sources([folder / "10.png", wrong], None)
    with pytest.raises(InputError, match="Frame 2 must be a path"):
        sort_sources([], [folder / "10.png", wrong])


def test_endless_iterators_end() -> None:
    with pytest.raises(InputError, match="at most"):
        sort_sources(itertools.repeat("a.png"), None)


def test_frames_come_from_anything_that_has_an_order(folder: Path) -> None:
    assert values(None, (path for path in sorted(folder.iterdir()))) == [10, 20, 30]
    assert values([], np.stack([np.full((4, 4, 3), value, np.uint8) for value in range(9)]), 3) == [0, 4, 8]
    with pytest.raises(InputError, match="video must be"):
        sort_sources(None, np.full((4, 4, 3), 7, np.uint8))
    with pytest.raises(InputError, match="no frame"):
        sort_sources(None, iter([]))
    with pytest.raises(InputError, match="video must be"):
        sort_sources(None, b"\0\0\0\x18ftypmp42")


@pytest.mark.parametrize("frames", [0, -1, 1.5, "8", True, None, 10**6, float("nan")])
def test_silly_numbers_of_frames_are_one_sentence(folder: Path, frames: Any) -> None:
    with pytest.raises(InputError, match="frames must be"):
        values([], [folder / "10.png"], frames)
    assert values([], [folder / "10.png"], np.int64(2)) == [10]  # type: ignore[arg-type]


def test_a_video_among_the_pictures_is_known_by_its_content(folder: Path) -> None:
    for name in ("clip", "clip.gif", "clip.jpg"):
        shutil.copy(CLIP, folder / name)
        assert sort_sources([folder / name], None) == ([], folder / name)
    with pytest.raises(InputError, match="one video, not about both"):
        sort_sources([folder / "10.png", folder / "clip.jpg"], None)
    with pytest.raises(InputError, match="not about both"):
        sort_sources([folder / "10.png"], folder / "clip")
    shutil.copy(folder / "10.png", folder / "picture.mp4")
    assert values([folder / "picture.mp4", folder / "20.png"]) == [10, 20]
    assert sort_sources(["missing.mp4"], None) == ([], "missing.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_pipes_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is a pipe, not a"):
        values([tmp_path / "pipe.png"])


def test_a_cancelled_turn_reads_nothing(folder: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        load_pictures([folder / "10.png"], None, 8, Policy(), token)


def test_the_policy_limits_pixels() -> None:
    pixels = np.zeros((10, 11, 3), np.uint8)
    with pytest.raises(InputError, match="100 pixels at most"):
        load_pictures([pixels], None, 8, Policy(max_picture_pixels=100), CancelToken())
    with pytest.raises(InputError, match="max_picture_pixels must be between"):
        Policy(max_picture_pixels=0)


def test_the_memory_is_checked_before_anything_is_decoded(folder: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (4000, 3000)).save(folder / "large.png", exif=turned)
    content = (folder / "large.png").read_bytes()
    (folder / "large.png").write_bytes(content[:200] + bytes(len(content) - 200))  # would be damaged
    asked = []

    def refuse(sizes: Sequence[tuple[int, int]], video: bool) -> None:
        asked.append((list(sizes), video))
        raise BudgetError("too much")

    sources = [np.zeros((5, 6, 3), np.uint8), folder / "large.png"]
    with pytest.raises(BudgetError, match="too much"):
        open_pictures(sources, None, 8, Policy(), CancelToken(), refuse)
    assert asked == [([(6, 5), (3000, 4000)], False)]
