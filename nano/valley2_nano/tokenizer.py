"""Trains a byte-level BPE and writes it with the released special tokens (docs/valley2.md, "Tokenizer")."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from valley2_edge.export.synthetic.tokenizer import SPLIT_PATTERN, BaseVocabulary, byte_symbols, write_tokenizer_files

LARGEST_BASE_SIZE = 1000


def train_tokenizer(
    directory: Path, texts: Iterable[str], base_size: int = LARGEST_BASE_SIZE
) -> tuple[int, tuple[int, int]]:
    """Trains the base vocabulary on texts like those of training.

    Args:
        directory: An existing directory.
        texts: Questions and answers.
        base_size: Entries before the special tokens at most; fewer when the texts have no more pairs to merge.

    Returns:
        Entries with the special tokens, and the ids of `<|im_end|>` and `<|endoftext|>`.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=base_size, min_frequency=2, initial_alphabet=byte_symbols(), show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    vocabulary = trained.get_vocab()
    symbols = sorted(vocabulary, key=lambda symbol: vocabulary[symbol])
    return write_tokenizer_files(directory, BaseVocabulary(symbols, _merges(trained)))


def _merges(trained: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(trained.to_str())["model"]["merges"]
    return [(left, right) for left, right in (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)]
