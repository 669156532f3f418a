"""Text to ids and back, against the reference's tokenizer in transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from valley2_edge.errors import BundleError, InputError
from valley2_edge.runtime.core.tokenizer import TextStream, Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GOLDEN = Path(__file__).parents[2] / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"

TEXTS = [
    "What is on the label?",
    "don't  stop\n\n\tnow   ",
    "naïve café 東京 🙂👩‍👩‍👧 ﬁ Å",
    "12345 + 67 = ?",
    "",
    "\r\n\r\n x",
    "<|im_end|><SUMMARY></tool_call>",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(CHECKPOINT)


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINT)


def reference_text(reference: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text: str = reference.batch_decode([ids])[0]
    return text.replace("<|im_end|>", "")


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_with_controls_equals_the_reference(
    tokenizer: Tokenizer, reference: PreTrainedTokenizerBase, text: str
) -> None:
    assert tokenizer.encode_with_controls(text) == reference(text).input_ids


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_text_without_control_strings_encodes_the_same_both_ways(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode_text(text) == tokenizer.encode_with_controls(text)


def test_control_strings_stay_text(tokenizer: Tokenizer) -> None:
    definition = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    for added in definition["added_tokens"]:
        ids = tokenizer.encode_text(f"a{added['content']}b")
        assert added["id"] not in ids
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == f"a{added['content']}b"


def test_control_ids_are_found_by_content(tokenizer: Tokenizer) -> None:
    assert tokenizer.control_id("<|im_end|>") == 645
    assert tokenizer.control_id("<\\cor>") == 670


def test_unknown_control_token_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(BundleError, match="<audio>"):
        tokenizer.control_id("<audio>")


def test_recorded_answers_decode_to_the_recorded_text(tokenizer: Tokenizer) -> None:
    cases = json.loads((GOLDEN / "manifest.json").read_text())["cases"]
    records = [record for variant in cases.values() for record in variant.values() if "generated_text" in record]
    assert records
    for record in records:
        assert tokenizer.decode(record["greedy_tokens"]) == record["generated_text"]


def test_stream_equals_the_reference_for_any_ids(tokenizer: Tokenizer, reference: PreTrainedTokenizerBase) -> None:
    numbers = random.Random(7)
    for _ in range(300):
        ids = [numbers.randrange(690) for _ in range(numbers.randrange(40))]  # 679 and above have no token
        known = [token for token in ids if token < 679]
        assert tokenizer.decode(ids) == reference_text(reference, known)


def test_stream_never_splits_a_character(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    ids = tokenizer.encode_text("東京🙂")
    pieces = [stream.push(token) for token in ids]
    assert len(ids) > 3
    assert [piece for piece in pieces if piece] == ["東", "京", "🙂"]
    assert stream.finish() == ""


def test_unfinished_character_at_the_end_becomes_a_replacement(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    ids = tokenizer.encode_text("🙂")
    assert stream.push(ids[0]) == ""
    assert stream.finish() == "\ufffd"


def test_end_of_turn_spelled_in_text_tokens_goes_as_in_the_reference(
    tokenizer: Tokenizer, reference: PreTrainedTokenizerBase
) -> None:
    for text in ("a<|im_end|>b", "<|im_<|im_end|>end|>", "x<|im_", "<|im_end|><|im_end|>"):
        ids = tokenizer.encode_text(text)
        assert tokenizer.decode(ids) == reference_text(reference, ids) == text.replace("<|im_end|>", "")


def test_other_control_tokens_stay_as_text(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.control_id("<SUMMARY>"), *tokenizer.encode_text("x"), 645, tokenizer.control_id("</SUMMARY>")]
    assert tokenizer.decode(ids) == "<SUMMARY>x</SUMMARY>"


def test_lone_surrogate_is_an_input_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="position 2"):
        tokenizer.encode_text("ab\udc80")


def test_missing_and_broken_definitions_are_bundle_errors(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no file"):
        Tokenizer(tmp_path)
    for content in ("", "{}", '{"added_tokens": [], "model": 3}', "\xff"):
        (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
        with pytest.raises(BundleError, match=r"not readable JSON|not a readable tokenizer|not UTF-8"):
            Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda d: d["added_tokens"][5].update(id={"a": 1}), "no whole number as its id"),
        (lambda d: d["added_tokens"][5].update(id=True), "no whole number as its id"),
        (lambda d: d["added_tokens"][5].update(id=10**30), "not the whole numbers from 0 on"),
        (lambda d: d["added_tokens"][5].update(id=-1), "not the whole numbers from 0 on"),
        (lambda d: d["added_tokens"][5].update(id=7), "not the whole numbers from 0 on"),
        (lambda d: d["added_tokens"].append(d["added_tokens"][0]), "stands in it twice"),
        (lambda d: d["model"].update(continuing_subword_prefix="1"), "continuing_subword_prefix = '1' is not"),
        (lambda d: d["model"].update(novelty=1), "novelty = 1 is not"),
        (lambda d: d["model"].update(merges=["a"]), "not of two tokens into a third"),
        (lambda d: d["model"].update(merges=[["a", "€"]]), "not of two tokens into a third"),
        (lambda d: d.update(normalizer=None), "normalizer None is not NFC"),
        (lambda d: d["added_tokens"][5].update(normalized="fp32"), "neither true nor false"),
        (lambda d: d["model"]["vocab"].update(a="1"), "no whole number"),
        (lambda d: d["model"]["vocab"].update({"a b": 5}), "not of bytes"),
        (lambda d: d["model"].update(dropout=0.1), "dropout"),
        (lambda d: d.update(added_tokens={}), "no vocabulary"),
        (
            lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="((a|b)+)+$"),
            "does not cut as Qwen2's",
        ),
    ],
)
def test_definition_that_is_no_qwen2_tokenizer_is_refused(tmp_path: Path, edit: Any, sentence: str) -> None:
    definition = json.loads((CHECKPOINT / "tokenizer.json").read_text("utf-8"))
    edit(definition)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    with pytest.raises(BundleError, match=sentence):
        Tokenizer(tmp_path)


def test_truncation_and_padding_of_the_file_are_not_used(
    tmp_path: Path, tokenizer: Tokenizer, reference: PreTrainedTokenizerBase
) -> None:
    definition = json.loads((CHECKPOINT / "tokenizer.json").read_text("utf-8"))
    definition["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    definition["padding"] = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    text = "What is shown in this picture?"
    expected = reference(text)["input_ids"]
    assert Tokenizer(tmp_path).encode_text(text) == Tokenizer(tmp_path).encode_with_controls(text) == expected
