"""A plain text becomes windows in which every token is predicted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley2_edge.errors import InputError
from valley2_edge.eval import passages
from valley2_edge.eval.passages import START_OF_DOCUMENT, Window, read_plain_text, windows_of
from valley2_edge.runtime.core.tokenizer import Tokenizer

TEXT = "A red mug stands beside 12 lamps.\n\n  It costs $5.20; nobody\tbuys it.\r\nThe end.\n" * 3


class NoStart(Tokenizer):
    """A tokenizer without a start-of-document token."""

    def find_control(self, content: str) -> int | None:
        return None if content == START_OF_DOCUMENT else super().find_control(content)


@pytest.fixture(scope="module")
def tokenizer(fp32_bundle: Path) -> Tokenizer:
    return Tokenizer(fp32_bundle / "tokenizer")


def predicted(windows: list[Window]) -> list[int]:
    return [token for window in windows for token in window.tokens]


@pytest.mark.parametrize("size", [2, 3, 17, 512])
def test_every_token_is_predicted_once_after_the_start_of_a_document(tokenizer: Tokenizer, size: int) -> None:
    windows = windows_of(TEXT, tokenizer, size)
    ids = tokenizer.encode_text(TEXT)
    assert predicted(windows) == ids
    assert {window.before for window in windows} == {(tokenizer.control_id(START_OF_DOCUMENT),)}
    assert all(len(window.tokens) == size - 1 for window in windows[:-1])
    assert len(windows) == -(-len(ids) // (size - 1))


@pytest.mark.parametrize("size", [2, 17])
def test_without_such_a_token_a_window_begins_with_the_last_token_before_it(fp32_bundle: Path, size: int) -> None:
    tokenizer = NoStart(fp32_bundle / "tokenizer")
    windows = windows_of(TEXT, tokenizer, size)
    ids = tokenizer.encode_text(TEXT)
    assert predicted(windows) == ids[1:]
    assert [window.before[0] for window in windows] == ids[0 : len(ids) - 1 : size - 1]


def test_what_looks_like_a_control_token_is_text(tokenizer: Tokenizer) -> None:
    (window,) = windows_of("He typed <|im_end|> here.", tokenizer)
    assert tokenizer.control_id("<|im_end|>") not in window.tokens
    assert "".join(tokenizer.token_bytes(token).decode() for token in window.tokens) == "He typed <|im_end|> here."


def test_a_limit_takes_windows_that_are_spread_over_the_text(tokenizer: Tokenizer) -> None:
    every = windows_of(TEXT, tokenizer, 9)
    few = windows_of(TEXT, tokenizer, 9, limit=3)
    assert few == [every[0], every[len(every) // 3], every[2 * len(every) // 3]]
    assert windows_of(TEXT, tokenizer, 9, limit=len(every) + 1) == every


def test_a_text_in_pieces_has_the_tokens_of_the_whole(
    fp32_bundle: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXT + "\n\n\nx\n \n\u0301y\n\u3000z\n'll\n\n  'll\n1\n2\n#\n#\n" + TEXT
    whole = tokenizer.encode_text(text)
    pieces: list[str] = []

    class Counting(Tokenizer):
        def encode_text(self, text: str) -> list[int]:
            pieces.append(text)
            return super().encode_text(text)

    monkeypatch.setattr(passages, "_PIECE_CHARACTERS", 1)
    assert predicted(windows_of(text, Counting(fp32_bundle / "tokenizer"))) == whole
    assert len(pieces) > 15 and "".join(pieces) == text


def test_what_cannot_be_cut_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "a"):
        with pytest.raises(InputError, match=f"The text has {len(text)} token; at least 2"):
            windows_of(text, tokenizer)
    with pytest.raises(InputError, match="at least 2 tokens, not 1"):
        windows_of(TEXT, tokenizer, 1)
    with pytest.raises(InputError, match="At least 1 window must be measured, not 0"):
        windows_of(TEXT, tokenizer, limit=0)
    monkeypatch.setattr(passages, "MAX_TEXT_CHARACTERS", 50)
    monkeypatch.setattr(passages, "_PIECE_CHARACTERS", 10)
    with pytest.raises(InputError, match="The text has 51 characters without a line's end"):
        windows_of("a" * 51, tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no text"),
        (b" \n\t\n", "has no text"),
        (b"fine\nnot \xff fine\n", "text.txt, line 2: the text is not UTF-8"),
        ("UTF-16".encode("utf-16"), "not UTF-8 but UTF-16"),
    ],
)
def test_a_file_without_readable_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_plain_text(path)


def test_a_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="There is no file at"):
        read_plain_text(tmp_path / "text.txt")
    with pytest.raises(InputError, match="is a directory"):
        read_plain_text(tmp_path)
    monkeypatch.setattr(passages, "MAX_TEXT_BYTES", 3)
    (tmp_path / "long.txt").write_text("four")
    with pytest.raises(InputError, match="larger than 3 bytes"):
        read_plain_text(tmp_path / "long.txt")
