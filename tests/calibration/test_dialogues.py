"""A calibration file as dialogues that a bundle is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from valley2_edge.calibration.dialogues import read_dialogues
from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.eval.passages import Dialogue


def write(path: Path, count: int, *more: str) -> Path:
    lines = [json.dumps({"prompt": f"Lamp {number}?", "answer": f"${number}"}) for number in range(count)]
    path.write_text("\n".join([*lines, *more]), "utf-8")
    return path


def test_every_line_is_a_dialogue(tmp_path: Path) -> None:
    dialogues, left_out = read_dialogues(write(tmp_path / "set.jsonl", 2))
    assert dialogues == [Dialogue("line 1", "Lamp 0?", "$0"), Dialogue("line 2", "Lamp 1?", "$1")]
    assert left_out == ()


def test_a_limit_is_spread_over_the_file(tmp_path: Path) -> None:
    dialogues, _ = read_dialogues(write(tmp_path / "set.jsonl", 9), 3)
    assert [dialogue.name for dialogue in dialogues] == ["line 1", "line 4", "line 7"]
    with pytest.raises(InputError, match="At least 1 line"):
        read_dialogues(tmp_path / "set.jsonl", 0)


def test_broken_lines_are_left_out_and_said(tmp_path: Path) -> None:
    with pytest.warns(Valley2Warning, match="1 of the 21 .* line 21"):
        dialogues, left_out = read_dialogues(write(tmp_path / "set.jsonl", 20, "{"))
    assert len(dialogues) == 20 and left_out[0].startswith("line 21: ")
