"""The tokenizer of a run, made once, and the architecture that goes with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from valley2_edge.config import ModelConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.eval.questions.dialogue import text_corpus
from valley2_edge.export.checkpoint.config import read_model_config
from valley2_edge.export.synthetic.checkpoint import TOKENIZER_FILES
from valley2_edge.outside_files import read_json
from valley2_nano.sizes import NanoSizes
from valley2_nano.tokenizer import LARGEST_BASE_SIZE, train_tokenizer

CORPUS_DIALOGUES = 4_000
FACTS = "vocabulary.json"


def prepare_tokenizer(output: Path) -> ModelConfig:
    """Trains the tokenizer of a run into OUTPUT/tokenizer when it is not there.

    Args:
        output: Directory of the run.

    Returns:
        The architecture.
    """
    facts = output / "tokenizer" / FACTS
    if not facts.is_file():
        facts.parent.mkdir(parents=True, exist_ok=True)
        _write_facts(facts, *train_tokenizer(facts.parent, text_corpus(CORPUS_DIALOGUES), LARGEST_BASE_SIZE))
    values = read_json(facts, CheckpointError)
    return NanoSizes().config(values["size"], tuple(values["stop_tokens"]))


def copy_tokenizer(checkpoint: Path, output: Path) -> None:
    """Gives a new run the tokenizer of the checkpoint that it begins from.

    Args:
        checkpoint: Its directory.
        output: Directory of the run.

    Raises:
        CheckpointError: A config file is missing or not acceptable.
        OSError: A file cannot be copied.
    """
    config = read_model_config(checkpoint)
    directory = output / "tokenizer"
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, directory / name)
    _write_facts(directory / FACTS, config.decoder.vocab_size, config.stop_tokens)


def _write_facts(path: Path, size: int, stop_tokens: tuple[int, ...]) -> None:
    path.write_text(json.dumps({"size": size, "stop_tokens": stop_tokens}), encoding="utf-8")
