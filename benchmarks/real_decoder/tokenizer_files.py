"""The trained model's tokenizer: by itself, and as the files of a Valley2 checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_decoder import TrainedModel
from tokenizers import Tokenizer

FIRST_RENAMED = 3
CONTROLS = (
    "<im_start>", "<im_end>", "<vi_start>", "<vi_end>", "<cor>", "<\\cor>", "<SUMMARY>", "</SUMMARY>", "<CAPTION>",
    "</CAPTION>", "<REASONING>", "</REASONING>", "<CONCLUSION>", "</CONCLUSION>",
)  # fmt: skip
"""Valley2's control tokens, in the places of those that mark parts of a code repository, which text never has."""


def trained_tokenizer(model: TrainedModel) -> Tokenizer:
    """Cuts texts as in the model's training: digits one by one, then GPT-2's words."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    definition = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "decoder": byte_level,
        "added_tokens": [],
        "model": {"type": "BPE", **_vocabulary(model.tokens, model.merges)},
    }
    return Tokenizer.from_str(json.dumps(definition))


def write_tokenizer(model: TrainedModel, template: Path, target: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    The vocabulary is the trained model's; texts are cut into words as Qwen2's, which is the only way that a Valley2
    checkpoint may have. The two ways seldom differ in English.

    Args:
        model: The trained model.
        template: A Valley2 checkpoint, whose tokenizer cuts as Qwen2's and has the chat template.
        target: The folder to write into.
    """
    tokens = list(model.tokens)
    tokens[FIRST_RENAMED : FIRST_RENAMED + len(CONTROLS)] = CONTROLS
    added = [_added(index, tokens[index]) for index in range(model.controls)]
    definition = json.loads((template / "tokenizer.json").read_text("utf-8"))
    definition["added_tokens"] = added
    definition["model"] |= _vocabulary(tokens, model.merges)
    (target / "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=False), "utf-8")
    configuration = json.loads((template / "tokenizer_config.json").read_text("utf-8"))
    configuration["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
    }
    configuration["model_max_length"] = model.shape.context
    (target / "tokenizer_config.json").write_text(json.dumps(configuration, ensure_ascii=False), "utf-8")


def _vocabulary(tokens: list[str], merges: list[str]) -> dict[str, Any]:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return {"vocab": vocabulary, "merges": [merge.split(" ") for merge in merges]}


def _added(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}
