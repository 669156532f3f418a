"""The trained tokenizer has the released layout of special tokens and spells every text."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_nano.tokenizer import train_tokenizer

TEXTS = [f"What is the price of shoe {number}? It is ${number * 37}.95, and it is red." for number in range(40)]


def test_special_tokens_follow_the_base_in_the_released_order(tmp_path: Path) -> None:
    size, stop = train_tokenizer(tmp_path, TEXTS, 280)
    tokenizer = Tokenizer(tmp_path)
    assert (size, stop) == (316, (282, 280))
    # As in the release: 151643, 151644, 151645, 151665 and 151678 of 151679
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<im_start>", "</CONCLUSION>")
    assert [tokenizer.control_id(name) - 280 for name in names] == [0, 1, 2, 22, 35]


@pytest.mark.parametrize("text", ["What is the price of shoe 3?", "naïve €12 図 \U0001f600\r\n\t  end ", "<SUMMARY>"])
def test_every_text_survives(text: str, tokenizer_directory: Path) -> None:
    tokenizer = Tokenizer(tokenizer_directory)
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_words_of_the_corpus_are_few_tokens(tokenizer_directory: Path) -> None:
    tokenizer = Tokenizer(tokenizer_directory)
    assert len(tokenizer.encode_text(" price")) == 1
    assert len(tokenizer.encode_text(" 417")) == 4  # digits stay single, as in Qwen2
