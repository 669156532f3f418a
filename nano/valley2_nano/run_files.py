"""The tokenizer of a run, made once, and the architecture that goes with it."""

from __future__ import annotations

import json
from pathlib import Path

from valley2_edge.config import ModelConfig
from valley2_edge.ecom.dialogue import text_corpus
from valley2_edge.export.checkpoint_config import read_json
from valley2_nano.sizes import NanoSizes
from valley2_nano.tokenizer import LARGEST_BASE_SIZE, train_tokenizer

CORPUS_DIALOGUES = 4_000


def prepare_tokenizer(output: Path) -> ModelConfig:
    """Trains the tokenizer of a run into OUTPUT/tokenizer when it is not there.

    Args:
        output: Directory of the run.

    Returns:
        The architecture.
    """
    facts = output / "tokenizer" / "vocabulary.json"
    if not facts.is_file():
        facts.parent.mkdir(parents=True, exist_ok=True)
        size, stop = train_tokenizer(facts.parent, text_corpus(CORPUS_DIALOGUES), LARGEST_BASE_SIZE)
        facts.write_text(json.dumps({"size": size, "stop_tokens": stop}), encoding="utf-8")
    values = read_json(facts)
    return NanoSizes().config(values["size"], tuple(values["stop_tokens"]))
