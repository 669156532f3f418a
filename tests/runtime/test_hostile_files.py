"""Decoders and towers whose sizes nobody has: refused in one sentence before anything is allocated for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import BundleError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.tower import Tower

CONFIG = TinyConfig(num_hidden_layers=1)
Header = dict[str, Any]


def rewrite(path: Path, change: Callable[[Header], None], lead: int = 0) -> None:
    """Changes the header of a safetensors file; `lead` spaces more than needed follow it."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64 + size % 64 + lead)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def config(**values: Any) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header["__metadata__"]["config"] = json.dumps(json.loads(header["__metadata__"]["config"]) | values)

    return change


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_decoder(tmp_path, CONFIG, random_weights(CONFIG))
    return tmp_path


@pytest.mark.parametrize("value", [0, 10**9, 2**63, 2**64, -1, 1.5, "4", None, [], True])
@pytest.mark.parametrize(
    "name",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_sizes_that_no_decoder_has_are_refused(directory: Path, name: str, value: Any) -> None:
    rewrite(directory / "decoder.safetensors", config(**{name: value}))
    with pytest.raises(BundleError, match=name):
        Decoder(directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rope_theta", 0), ("rope_theta", 1e-300), ("rope_theta", 1e300), ("rms_norm_eps", -1), ("rms_norm_eps", 1e30)],
)
def test_numbers_that_no_decoder_has_are_refused(directory: Path, name: str, value: float) -> None:
    rewrite(directory / "decoder.safetensors", config(**{name: value}))
    with pytest.raises(BundleError, match=name):
        Decoder(directory)


@pytest.mark.parametrize("file", ["decoder.safetensors", "embeddings.safetensors"])
def test_tensors_that_lie_between_the_places_of_their_values_are_refused(directory: Path, file: str) -> None:
    rewrite(directory / file, lambda header: None, lead=1)
    with pytest.raises(BundleError, match="is not aligned"):
        Decoder(directory)


def test_key_that_stands_twice_in_the_config_is_refused(directory: Path) -> None:
    def twice(header: Header) -> None:
        text = header["__metadata__"]["config"]
        header["__metadata__"]["config"] = '{"vocab_size":5,' + text[1:]

    rewrite(directory / "decoder.safetensors", twice)
    with pytest.raises(BundleError, match="the key 'vocab_size' stands twice"):
        Decoder(directory)


def test_tower_of_sizes_that_none_has_is_refused(tmp_path: Path) -> None:
    def write(tower: str, sizes: dict[str, Any]) -> Path:
        metadata = {"format": "valley2-tower", "format_version": "1", "tower": tower, "matrices": "{}"}
        text = json.dumps({"__metadata__": metadata | {"config": json.dumps(sizes)}}).encode()
        (tmp_path / tower).write_bytes(len(text).to_bytes(8, "little") + text)
        return tmp_path / tower

    siglip = {
        "image_size": 56,
        "patch_size": 14,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "layer_norm_eps": 1e-6,
    }
    with pytest.raises(BundleError, match=r"lacks the tensor 'layers\.0"):
        Tower(write("siglip", siglip))  # with these sizes only the tensors are missing
    for name in siglip.keys() - {"layer_norm_eps"}:
        for value in (0, 10**9, 2**64, -4, 0.5):
            with pytest.raises(BundleError, match=name):
                Tower(write("siglip", siglip | {name: value}))
    for value in (-1, 1e300, "1e-6"):
        with pytest.raises(BundleError, match="layer_norm_eps"):
            Tower(write("siglip", siglip | {"layer_norm_eps": value}))
    with pytest.raises(BundleError, match=r"the tower '\?\[2Jnone', which is unknown"):
        Tower(write("\x1b[2Jnone", siglip))
