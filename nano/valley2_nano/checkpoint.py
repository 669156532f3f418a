"""Writes and reads checkpoint directories in the released layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from valley2_edge.config import ModelConfig
from valley2_edge.export.checkpoint.config import read_model_config
from valley2_edge.export.synthetic.checkpoint import TOKENIZER_FILES, write_config_files
from valley2_nano.model import Valley2Nano

WEIGHTS = "model.safetensors"


def write_checkpoint(directory: Path, model: Valley2Nano, tokenizer: Path, kind: torch.dtype = torch.bfloat16) -> None:
    """Writes a checkpoint that replaces the one at the same place once it is complete.

    Args:
        directory: The checkpoint's.
        model: Its weights.
        tokenizer: A directory with tokenizer files, which are copied.
        kind: Type of the stored weights.

    Raises:
        OSError: A file cannot be written.
    """
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, partial / name)
    state = {name: tensor.to("cpu", kind).contiguous() for name, tensor in model.released_state().items()}
    save_file(state, partial / WEIGHTS, metadata={"format": "pt"})
    write_config_files(partial, model.config)
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)


def read_checkpoint(directory: Path) -> Valley2Nano:
    """Reads a checkpoint's weights as fp32.

    Raises:
        CheckpointError: A config file is missing or not acceptable.
        OSError: The weights cannot be read.
    """
    model = Valley2Nano(checkpoint_config(directory))
    model.load_released(load_file(directory / WEIGHTS))
    return model


def checkpoint_config(directory: Path) -> ModelConfig:
    """Reads a checkpoint's architecture.

    Raises:
        CheckpointError: A config file is missing or not acceptable.
    """
    return read_model_config(directory)
