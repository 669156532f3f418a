"""Fonts of a picture: one that has the characters, wherever it is found, and codes where none has."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from valley2_edge.errors import Valley2Warning
from valley2_edge.eval import fonts
from valley2_edge.eval.chart import draw_score
from valley2_edge.eval.fonts import Fonts
from valley2_edge.eval.scoring import Outcome, Score, score

BOX_FONT = Path(__file__).with_name("box.ttf")
"""Made for this test: it has U+5546 alone, drawn as a ring; a missing character is a smaller square."""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory with fonts of the system."""
    monkeypatch.setattr(fonts, "_font_directories", lambda: [tmp_path / "absent", tmp_path])
    fonts._system_font.cache_clear()
    return tmp_path


def scored(task: str) -> Score:
    return score([Outcome("1", task, tuple("ABCD"))])


def test_plain_text_keeps_the_own_font(system: Path) -> None:
    text, font = Fonts().choose("nano-int4, seed 0", 20)
    assert text == "nano-int4, seed 0" and font.getname()[0] == "Aileron"


def test_a_font_of_the_system_that_has_the_characters_is_taken(system: Path) -> None:
    shutil.copy(BOX_FONT, system / "other.ttf")
    (system / "broken.ttf").write_bytes(b"no font")
    chosen = Fonts()
    text, font = chosen.choose("\u5546", 20)
    assert text == "\u5546" and font.getname() == ("Test Box", "Regular")
    assert chosen.missing == ""


def test_characters_that_no_font_has_are_shown_by_their_codes_and_said_once(system: Path) -> None:
    with pytest.warns(Valley2Warning) as said:
        picture = np.asarray(draw_score(scored("\u5546\u54c1"), "\u5546"))
    assert len(said) == 1 and "no font of this machine has '\u5546\u54c1'" in str(said[0].message)
    with pytest.warns(Valley2Warning):
        other = np.asarray(draw_score(scored("\u5546\u54c2"), "\u5546"))
    assert (picture != other).any()  # two words that cannot be drawn are told apart


def test_controls_are_shown_by_their_codes_without_a_warning(system: Path, recwarn: pytest.WarningsRecorder) -> None:
    chosen = Fonts()
    assert chosen.choose("red\x1b[31m", 20)[0] == "red\\x1b[31m"
    chosen.warn()
    assert not recwarn
