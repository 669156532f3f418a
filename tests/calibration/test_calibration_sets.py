"""Calibration sets: the user's lines and the generator's, what is refused, and the hash that identifies a set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from valley2_edge.calibration.builtin import builtin_set
from valley2_edge.calibration.held_out import held_out_set
from valley2_edge.calibration.jsonl import read_and_hold_out, read_calibration_file
from valley2_edge.calibration.samples import CalibrationSet, make_set, without_pictures
from valley2_edge.errors import InputError, Valley2Warning
from valley2_edge.eval.questions.product import names, prices


def _write(directory: Path, lines: list[str], colour: str = "red") -> Path:
    directory.mkdir(exist_ok=True)
    Image.new("RGB", (30, 20), colour).save(directory / "a.png")
    path = directory / "set.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _line(number: int = 0, **others: object) -> str:
    return json.dumps({"images": ["a.png"], "prompt": f"What is it? {number}", "answer": "A mug.", **others})


def test_lines_become_samples_with_paths_beside_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, [_line(), "", json.dumps({"prompt": "Hello?", "answer": "Hi."})])
    first, second = read_calibration_file(path).samples
    assert first.images == (tmp_path / "a.png",)
    assert (first.turns[0].prompt, first.turns[0].answer) == ("What is it? 0", "A mug.")
    assert (first.name, second.name, second.images) == ("line 1", "line 3", ())


def test_a_few_broken_lines_are_named_and_left_out(tmp_path: Path) -> None:
    path = _write(tmp_path, [*(_line(number) for number in range(39)), _line(images=["gone.png"])])
    with pytest.warns(Valley2Warning, match=r"1 of the 40 calibration samples .* left out: line 40: .*gone\.png"):
        found = read_calibration_file(path)
    assert len(found.samples) == 39
    assert len(found.broken) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: it is not readable JSON"),
        (_line(answer=""), "line 3: answer"),
        (_line(colour="red"), "line 3: colour"),
        (_line(video="a.png"), "line 3: only one of images and video"),
        (_line(images=["set.jsonl"]), r"line 3: .*set\.jsonl"),
    ],
)
def test_more_than_a_twentieth_of_broken_lines_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path, [_line(1), _line(2), line])
    with pytest.raises(InputError, match=f"1 of the 3 .* more than 5 %: {message}"):
        read_calibration_file(path)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set\.jsonl is empty"):
        read_calibration_file(_write(tmp_path, ["", " "]))
    with pytest.raises(InputError, match="at least one sample"):
        builtin_set(0)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no calibration file at"):
        read_calibration_file(tmp_path / "none.jsonl")


def test_a_part_of_a_file_is_spread_over_it(tmp_path: Path) -> None:
    path = _write(tmp_path, [_line(number) for number in range(10)])
    assert [sample.name for sample in read_calibration_file(path, 3).samples] == ["line 1", "line 4", "line 7"]


def _text_lines(count: int) -> list[str]:
    return [json.dumps({"prompt": f"Lamp {number}?", "answer": "A lamp."}) for number in range(count)]


def _numbers(found: CalibrationSet | None) -> list[int]:
    return [] if found is None else [int(sample.name.removeprefix("line ")) for sample in found.samples]


@pytest.mark.parametrize(
    ("lines", "most", "held_out"),
    [
        (15, 32, []),
        (16, 32, [5, 13]),
        (40, 32, [5, 13, 21, 29, 37]),
        (40, 3, [7, 21, 34]),
        (40, 1, []),
        (40, 0, []),
        (300, 32, [300 * (2 * place + 1) // 64 + 1 for place in range(32)]),
    ],
)
def test_at_most_every_eighth_line_is_held_out(tmp_path: Path, lines: int, most: int, held_out: list[int]) -> None:
    path = _write(tmp_path, _text_lines(lines))
    used, kept = read_and_hold_out(path, None, most)
    assert _numbers(kept) == held_out
    assert _numbers(used) == [number for number in range(1, lines + 1) if number not in held_out]


def test_what_is_held_out_is_never_rounded_on(tmp_path: Path) -> None:
    path = _write(tmp_path, _text_lines(100))
    used, kept = read_and_hold_out(path, 10, 12)
    assert kept is not None and (len(used.samples), len(kept.samples)) == (10, 12)
    assert not {*_numbers(used)} & {*_numbers(kept)}
    rest = [number for number in range(1, 101) if number not in _numbers(kept)]
    assert _numbers(used) == [rest[place * 88 // 10] for place in range(10)]
    again = read_and_hold_out(path, 10, 12)
    assert (again[0].sha256, again[1].sha256 if again[1] else "") == (used.sha256, kept.sha256)
    assert used.sha256 != read_calibration_file(path, 10).sha256


def test_broken_lines_count_on_both_sides(tmp_path: Path) -> None:
    lines = _text_lines(40)
    lines[4] = "{"  # line 5, which would be held out
    with pytest.warns(Valley2Warning, match="1 of the 40 calibration samples .* left out: line 5"):
        used, kept = read_and_hold_out(_write(tmp_path, lines), None, 32)
    assert (len(used.samples), _numbers(kept), len(used.broken)) == (35, [13, 21, 29, 37], 1)


def test_the_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    here = read_calibration_file(_write(tmp_path / "here", [_line()])).sha256
    assert read_calibration_file(_write(tmp_path / "there", [_line()])).sha256 == here
    assert read_calibration_file(_write(tmp_path / "blue", [_line()], "blue")).sha256 != here
    assert read_calibration_file(_write(tmp_path / "words", [_line(1)])).sha256 != here


def test_the_builtin_set_is_the_same_every_time() -> None:
    assert builtin_set(3).sha256 == builtin_set(3).sha256
    assert builtin_set(3).sha256 != builtin_set(3, seed=1).sha256
    assert builtin_set(8).samples[:2] == builtin_set(5).samples[:2]  # its dialogues


def _words(found: CalibrationSet) -> str:
    return " ".join(f"{turn.prompt} {turn.answer}" for sample in found.samples for turn in sample.turns)


def test_the_builtin_set_shows_nothing_of_the_test_half() -> None:
    words = _words(builtin_set(160))
    assert not [name for name in names("test") if name in words.split()]
    assert any(name in words.split() for name in names("training"))


def test_the_held_out_set_shows_the_test_half() -> None:
    held = held_out_set(12)
    words = _words(make_set("held", [one.sample for one in held.samples]))
    assert not [name for name in names("training") if name in words.split()]
    assert len(prices("test")) > 50
    assert all(one.kinds[:4] == ("choice",) * 4 and len(one.kinds) == len(one.sample.turns) for one in held.samples)
    assert any("reading" in one.kinds for one in held.samples)
    assert held.sha256 == held_out_set(12).sha256 != held_out_set(12, seed=1).sha256


def test_pictures_can_be_left_out() -> None:
    found = builtin_set(3)
    text = without_pictures(found)
    assert all(sample.images == () and sample.video is None for sample in text.samples)
    assert [sample.turns for sample in text.samples] == [sample.turns for sample in found.samples]
    assert text.sha256 != found.sha256
