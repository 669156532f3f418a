"""The shipped texts: valid lines of their own, small, and mixed with dialogues in the same proportion at any size."""

from __future__ import annotations

import lzma
import unicodedata
from collections import Counter

import pytest

from valley2_edge.calibration.builtin import BUILTIN_SAMPLES, builtin_set
from valley2_edge.calibration.jsonl import read_calibration_file
from valley2_edge.calibration.samples import Sample, without_pictures
from valley2_edge.calibration.shipped_texts import TEXT_KINDS, TEXTS, count_texts, shipped_texts, text_file

LARGEST = 1_000_000
"""Bytes of all files together, compressed."""


@pytest.fixture(scope="module")
def lines() -> list[Sample]:
    return [sample for kind in TEXT_KINDS for sample in read_calibration_file(text_file(kind)).samples]


def _kinds(samples: tuple[Sample, ...] | list[Sample]) -> Counter[str]:
    return Counter(sample.name.split()[0] for sample in samples)


def test_every_file_is_a_kind_and_every_kind_has_lines() -> None:
    assert {path.name for path in TEXTS.iterdir()} == {"README.md", *(f"{kind}.jsonl" for kind in TEXT_KINDS)}
    assert min(count_texts().values()) >= 20


def test_every_line_is_valid_and_shows_no_picture(recwarn: pytest.WarningsRecorder, lines: list[Sample]) -> None:
    assert len(lines) == sum(count_texts().values())  # a broken line would be left out, with a warning
    assert not recwarn.list
    assert all(len(sample.turns) == 1 and not sample.images and sample.video is None for sample in lines)


def test_no_line_is_there_twice(lines: list[Sample]) -> None:
    for words in ([sample.turns[0].prompt for sample in lines], [sample.turns[0].answer for sample in lines]):
        assert [text for text, count in Counter(words).items() if count > 1] == []


def test_no_line_has_control_characters(lines: list[Sample]) -> None:
    for sample in lines:
        text = sample.turns[0].prompt + sample.turns[0].answer
        odd = {one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Co", "Cs") and one not in "\n\t"}
        assert not odd, (sample.name, odd)


def test_every_line_is_long_enough_to_say_something_and_fits_a_pack(lines: list[Sample]) -> None:
    for sample in lines:
        assert 300 < len(sample.turns[0].answer) < 4000, sample.name


def test_the_files_stay_small() -> None:
    whole = b"".join(text_file(kind).read_bytes() for kind in TEXT_KINDS)
    assert len(lzma.compress(whole)) <= LARGEST


def test_the_readme_counts_the_lines() -> None:
    readme = (TEXTS / "README.md").read_text("utf-8")
    for kind, count in count_texts().items():
        assert f"| `{kind}.jsonl` | {count} |" in readme


@pytest.mark.parametrize("count", [5, BUILTIN_SAMPLES, 64, 200])
def test_each_kind_has_its_share_at_any_size(count: int) -> None:
    kinds = _kinds(builtin_set(count).samples)
    assert kinds.total() == count
    assert kinds["dialogue"] == -(-count // 4)
    texts, total = count - kinds["dialogue"], sum(count_texts().values())
    for kind, lines_of_kind in count_texts().items():
        assert abs(kinds[kind] - texts * lines_of_kind / total) < 1


def test_the_default_has_pictures_and_every_kind_of_text() -> None:
    found = builtin_set()
    assert len(found.samples) == BUILTIN_SAMPLES
    assert set(_kinds(found.samples)) == {"dialogue", *TEXT_KINDS}
    assert found.samples[0].images


def test_the_set_ends_with_its_texts() -> None:
    whole = builtin_set(10_000)
    kinds = _kinds(whole.samples)
    assert {kind: kinds[kind] for kind in TEXT_KINDS} == count_texts()
    assert kinds["dialogue"] == -(-kinds.total() // 4)
    assert builtin_set(len(whole.samples)).sha256 == whole.sha256


def test_a_single_sample_is_a_dialogue() -> None:
    assert _kinds(builtin_set(1).samples) == {"dialogue": 1}


def test_lines_are_spread_over_their_file() -> None:
    names = [sample.name for sample in shipped_texts(58) if sample.name.startswith("english")]
    assert names == [f"english line {number}" for number in (1, 6, 11, 16, 21, 26, 31, 36, 41, 46, 51, 56, 61, 66)]


def test_texts_stay_when_pictures_are_left_out() -> None:
    found = builtin_set(8)
    text = without_pictures(found)
    assert [sample.name for sample in text.samples] == [sample.name for sample in found.samples]
    assert text.samples[2:] == found.samples[2:]
