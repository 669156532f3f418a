"""What the tests of the training share: its package, which is not installed, and a model of the smallest sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "nano"))

from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_nano.model import Valley2Nano
from valley2_nano.samples import SampleMaker
from valley2_nano.sizes import NanoSizes
from valley2_nano.tokenizer import train_tokenizer

TEXTS = [f"What is the price of shoe {number}? It is ${number * 37}.95, and it is red." for number in range(40)]

SIZES = NanoSizes(
    siglip_size=32, siglip_layers=1, siglip_heads=2, siglip_mlp=48, visual_vocabulary=64, eagle_size=32,
    eagle_layers=1, eagle_heads=2, decoder_size=128, decoder_layers=2, decoder_mlp=256,
)  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained tokenizer."""
    directory = tmp_path_factory.mktemp("nano") / "tokenizer"
    directory.mkdir()
    train_tokenizer(directory, TEXTS, 320)
    return directory


@pytest.fixture(scope="session")
def model(tokenizer_directory: Path) -> Valley2Nano:
    """Random weights in which no bias or gain has its neutral value; not to be changed."""
    base = Tokenizer(tokenizer_directory).control_id("<|endoftext|>")
    torch.manual_seed(0)
    made = Valley2Nano(SIZES.config(base + 36, (base + 2, base)))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="session")
def maker(tokenizer_directory: Path, model: Valley2Nano) -> SampleMaker:
    """Makes training samples for the small model."""
    return SampleMaker(Tokenizer(tokenizer_directory), model.config)


@pytest.fixture(scope="session")
def pictures() -> list[NDArray[np.uint8]]:
    """Noise: one picture of three tiles, two of other sizes."""
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((200, 290), (168, 168), (60, 90))
    ]
