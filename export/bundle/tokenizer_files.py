"""Copies a checkpoint's tokenizer into a bundle, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

from valley2_edge.errors import CheckpointError

REQUIRED = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL = (
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def tokenizer_files(checkpoint: Path) -> list[Path]:
    """Lists the files of a checkpoint's tokenizer.

    Args:
        checkpoint: The checkpoint's directory.

    Returns:
        The paths of the files that exist.

    Raises:
        CheckpointError: A file that is needed is missing.
    """
    for name in REQUIRED:
        if not (checkpoint / name).is_file():
            raise CheckpointError(f"The checkpoint lacks {name}: {checkpoint / name} is not there.")
    return [checkpoint / name for name in (*REQUIRED, *OPTIONAL) if (checkpoint / name).is_file()]


def copy_tokenizer(checkpoint: Path, directory: Path) -> None:
    """Copies the tokenizer into the folder tokenizer/ of a bundle.

    Args:
        checkpoint: The checkpoint's directory.
        directory: The bundle under construction.

    Raises:
        CheckpointError: A file that is needed is missing.
        OSError: A file cannot be copied.
    """
    target = directory / "tokenizer"
    target.mkdir(exist_ok=True)
    for path in tokenizer_files(checkpoint):
        shutil.copyfile(path, target / path.name)
