"""The configuration files of a GPTQ checkpoint (docs/interchange.md, "Configuration")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.export.checkpoint_config import read_json
from valley2_edge.quantize.gptq_checkpoint import GptqFormat

CONFIG_FILE = "config.json"
QUANTIZE_CONFIG_FILE = "quantize_config.json"

_FORMATS = ("gptq", "gptq_v2")
_UNSUPPORTED = {
    "rotation": "its weights are rotated, which the vision towers do not know of",
    "is_marlin_format": "it is laid out for the Marlin kernel",
    "adapter": "it needs an adapter",
}
# Keys of the decoder that decide what the weights mean; the context length and tied embeddings do not.
_DECIDING_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "rms_norm_eps",
    "rope_theta",
)


@dataclass(frozen=True)
class GptqConfig:
    """What the tensors of a GPTQ checkpoint do not say themselves."""

    checkpoint_format: GptqFormat
    symmetric: bool
    """Of layers that `dynamic` does not name."""
    dynamic: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Patterns of layer names to what is special about them."""
    by_gptqmodel: bool = False
    """Whether GPTQModel wrote it: its zero points of the format gptq carry from one to the next."""
    method: str = "gptq"
    """The rounding method, for a bundle's manifest."""

    def is_symmetric(self, layer: str) -> bool:
        """Whether a layer claims to have no zero points of its own.

        Args:
            layer: Its name in the checkpoint, without `.qweight`.
        """
        for pattern, values in self.dynamic.items():
            if not pattern.startswith("-:") and re.match(pattern.removeprefix("+:"), layer):
                return bool(values.get("sym", self.symmetric))
        return self.symmetric


def read_gptq_config(directory: Path) -> GptqConfig:
    """Reads quantize_config.json, or `quantization_config` of config.json where that file is absent.

    Args:
        directory: The checkpoint.

    Raises:
        CheckpointError: Neither is there, or one is malformed.
        ExportError: It is not GPTQ, or is a kind of GPTQ that a bundle cannot hold.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory with a GPTQ checkpoint")
    path = directory / QUANTIZE_CONFIG_FILE
    if path.is_file():
        values = read_json(path)
    else:
        path = directory / CONFIG_FILE
        values = read_json(path).get("quantization_config") or {}
        if not isinstance(values, dict) or not values:
            raise CheckpointError(f"{directory} is no GPTQ checkpoint: it has no quantization_config")
    method = values.get("quant_method", values.get("method", "gptq"))
    checkpoint_format = values.get("checkpoint_format", values.get("format", "gptq"))
    if method != "gptq" or checkpoint_format not in _FORMATS:
        raise ExportError(
            f"{path}: method {method!r} and format {checkpoint_format!r} are not supported: only gptq in the formats "
            "gptq and gptq_v2 is"
        )
    for key, meaning in _UNSUPPORTED.items():
        if values.get(key):
            raise ExportError(f"{path}: {key} = {values[key]!r} is not supported: {meaning}")
    meta = values.get("meta") or {}
    dynamic = values.get("dynamic") or {}
    if not isinstance(meta, dict) or not isinstance(dynamic, dict):
        raise CheckpointError(f"{path}: meta and dynamic must be objects")
    return GptqConfig(
        checkpoint_format=cast(GptqFormat, checkpoint_format),
        symmetric=bool(values.get("sym", True)),
        dynamic=_checked_dynamic(path, dynamic),
        by_gptqmodel=any(str(tool).startswith("gptqmodel:") for tool in _as_list(meta.get("quantizer"))),
        method=str(meta.get("method", "gptq")),
    )


def check_decoder_config(directory: Path, expected: DecoderConfig) -> None:
    """Checks that a GPTQ checkpoint has the sizes of the decoder whose place it shall take.

    Args:
        directory: Has a config.json in the manner of Qwen2.
        expected: The sizes.

    Raises:
        CheckpointError: A size is another, or the file is malformed.
    """
    path = directory / CONFIG_FILE
    values = read_json(path)
    rope = values.get("rope_parameters") or {}
    if isinstance(rope, dict) and "rope_theta" in rope:
        values = {**values, "rope_theta": rope["rope_theta"]}
    for key in _DECIDING_KEYS:
        found, wanted = values.get(key), getattr(expected, key)
        if found != wanted:
            raise CheckpointError(f"{path}: {key} is {found!r}, but the model that the decoder is for has {wanted!r}")


def _checked_dynamic(path: Path, dynamic: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for pattern, values in dynamic.items():
        try:
            re.compile(pattern.removeprefix("+:").removeprefix("-:"))
        except re.error as error:
            raise CheckpointError(f"{path}: dynamic: {pattern!r} is not a pattern ({error})") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: dynamic: {pattern!r} does not name an object")
    return dynamic


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
