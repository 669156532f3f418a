"""The picture of a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from valley2_edge.errors import InputError
from valley2_edge.eval.chart import WIDTH, check_picture_path, draw_score, save_score
from valley2_edge.eval.questions.question import TASKS
from valley2_edge.eval.scoring import Outcome, Score, score

BAR = (84, 131, 179)


def scored(right: int, count: int = 10, tasks: tuple[str, ...] = TASKS) -> Score:
    letters = [tuple("ABCD") if index < right else tuple("AAAA") for index in range(count)]
    return score(Outcome(f"{task}{n}", task, chosen) for task in tasks for n, chosen in enumerate(letters))


def bar_pixels(picture: Image.Image) -> int:
    return int((np.asarray(picture) == BAR).all(axis=2).sum())


def test_bars_grow_with_the_score() -> None:
    empty, half, full = (bar_pixels(draw_score(scored(right), "x")) for right in (0, 5, 10))
    assert empty < half < full
    assert full == pytest.approx(2 * half, rel=0.15)


def test_height_follows_the_tasks_and_the_width_does_not() -> None:
    one, nine = draw_score(scored(5, tasks=("ocr",)), "x"), draw_score(scored(5), "x")
    assert one.width == nine.width == WIDTH
    assert one.height < nine.height


def test_long_names_stay_within_the_picture() -> None:
    score_of_long = scored(5, tasks=("a task whose name is far too long for the room beside its bar " * 3,))
    picture = np.asarray(draw_score(score_of_long, "title " * 30, "subtitle " * 30))
    assert (picture[:, :10] == 255).all() and (picture[:, -10:] == 255).all()


def test_file_is_a_png(tmp_path: Path) -> None:
    save_score(scored(5), tmp_path / "result.png", "x")
    with Image.open(tmp_path / "result.png") as picture:
        assert (picture.format, picture.width) == ("PNG", WIDTH)


def test_bad_paths_are_refused_early(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.png"):
        check_picture_path(tmp_path / "result.jpg")
    with pytest.raises(InputError, match="no directory"):
        check_picture_path(tmp_path / "none" / "result.png")
