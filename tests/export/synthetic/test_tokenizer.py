"""The tokenizer of synthetic checkpoints has the released ids and can encode anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from valley2_edge.export.synthetic.tokenizer import ADDED_TOKEN_COUNT, RELEASED_BASE_SIZE, write_tokenizer

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "ckpt" / "eagle_ovis"


@pytest.mark.slow
def test_released_size_has_the_released_ids(tmp_path: Path) -> None:
    assert write_tokenizer(tmp_path) == (151_645, 151_643)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == RELEASED_BASE_SIZE + ADDED_TOKEN_COUNT == 151_679
    ids = {"<|im_start|>": 151_644, "<im_start>": 151_665, "<\\cor>": 151_670, "</CONCLUSION>": 151_678}
    assert {text: tokenizer.token_to_id(text) for text in ids} == ids


def test_added_tokens_equal_those_of_a_reference_checkpoint(tmp_path: Path) -> None:
    reference = json.loads((GOLDEN / "tokenizer.json").read_text("utf-8"))
    write_tokenizer(tmp_path, base_size=643)
    made = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert made["added_tokens"] == reference["added_tokens"]
    assert made["normalizer"] == reference["normalizer"]
    assert made["pre_tokenizer"]["pretokenizers"][0] == reference["pre_tokenizer"]["pretokenizers"][0]


@pytest.mark.parametrize("base_size", [256, 300, 5000])
def test_every_text_survives_encoding(tmp_path: Path, base_size: int) -> None:
    write_tokenizer(tmp_path, base_size)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<|im_start|>user\nWhat's on the label? 12 € naïve 図 \U0001f600\r\n<|im_end|>"
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    assert max(encoded.ids) < base_size + ADDED_TOKEN_COUNT


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 256"):
        write_tokenizer(tmp_path, 255)
