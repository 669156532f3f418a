"""Reads the configuration files of a GPTQ checkpoint (docs/interchange.md, "Configuration")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from valley2_edge.config import DecoderConfig, first_problem
from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.export.checkpoint.config import read_decoder_config
from valley2_edge.export.checkpoint.keys import (
    GENERATION_IGNORED,
    GENERATION_SUPPORTED,
    IGNORED,
    READ,
    SUPPORTED,
    check_keys,
)
from valley2_edge.export.gptq.name_pattern import NamePattern
from valley2_edge.outside_files import is_directory, read_json, shown
from valley2_edge.quantize.gptq_checkpoint import GptqFormat
from valley2_edge.rotation import Rotation

CONFIG_FILE = "config.json"
QUANTIZE_CONFIG_FILE = "quantize_config.json"

_FORMATS = ("gptq", "gptq_v2")
_MODEL_TYPES = ("qwen2", "valley")
_MAX_PATTERNS = 256
_MAX_NAME = 64
ROTATION_KEY = "valley2_rotation"
"""Key of config.json: the rotation that the weights have absorbed. It is this project's own; towers and embeddings of a
bundle can follow it."""
_UNSUPPORTED = {
    "rotation": "its weights are rotated in a way that the vision towers cannot follow",
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
    """What a GPTQ checkpoint says about its tensors in its configuration."""

    checkpoint_format: GptqFormat
    symmetric: bool
    """Whether layers that `dynamic` does not name have no zero points of their own."""
    dynamic: tuple[tuple[NamePattern, bool | None], ...] = ()
    """Patterns of layer names, and whether these layers are symmetric; None means as the other layers."""
    by_gptqmodel: bool = False
    """Whether GPTQModel wrote the checkpoint: in its format gptq a zero point can borrow from the next one."""
    method: str = "gptq"
    """The rounding method, for a bundle's manifest."""

    def is_symmetric(self, layer: str) -> bool:
        """Whether a layer claims to have no zero points of its own.

        Args:
            layer: The layer's name in the checkpoint, without `.qweight`.
        """
        for pattern, symmetric in self.dynamic:
            if pattern.matches(layer):
                return self.symmetric if symmetric is None else symmetric
        return self.symmetric


def read_gptq_config(directory: Path) -> GptqConfig:
    """Reads quantize_config.json, or `quantization_config` of config.json where that file is absent.

    Args:
        directory: The checkpoint.

    Raises:
        CheckpointError: Neither exists, or one is malformed.
        ExportError: The checkpoint is not GPTQ, or is a kind of GPTQ that a bundle cannot hold.
    """
    if not is_directory(directory):
        raise CheckpointError(f"{directory} is not a directory with a GPTQ checkpoint")
    path = directory / QUANTIZE_CONFIG_FILE
    if path.is_file():
        values = read_json(path, CheckpointError)
    else:
        path = directory / CONFIG_FILE
        values = read_json(path, CheckpointError).get("quantization_config") or {}
        if not isinstance(values, dict) or not values:
            raise CheckpointError(f"{directory} is no GPTQ checkpoint: it has no quantization_config")
    method = values.get("quant_method", values.get("method", "gptq"))
    checkpoint_format = values.get("checkpoint_format", values.get("format", "gptq"))
    if method != "gptq" or checkpoint_format not in _FORMATS:
        raise ExportError(
            f"{path}: method {shown(method)} and format {shown(checkpoint_format)} are not supported: only gptq in the "
            "formats gptq and gptq_v2 is"
        )
    for key, meaning in _UNSUPPORTED.items():
        if values.get(key):
            raise ExportError(f"{path}: {key} = {shown(values[key])} is not supported: {meaning}")
    if values.get("pack_dtype", "int32") != "int32":
        raise ExportError(f"{path}: pack_dtype = {shown(values['pack_dtype'])} is not supported, only 'int32'")
    meta = values.get("meta") or {}
    dynamic = values.get("dynamic") or {}
    if not isinstance(meta, dict) or not isinstance(dynamic, dict):
        raise CheckpointError(f"{path}: meta and dynamic must be objects")
    return GptqConfig(
        checkpoint_format=cast(GptqFormat, checkpoint_format),
        symmetric=_as_bool(path, "sym", values.get("sym", True)),
        dynamic=_read_dynamic(path, dynamic),
        by_gptqmodel=any(str(tool).startswith("gptqmodel:") for tool in _as_list(meta.get("quantizer"))),
        method=_as_name(path, meta.get("method", "gptq")),
    )


def check_decoder_config(directory: Path, expected: DecoderConfig) -> None:
    """Checks that a GPTQ checkpoint has the sizes of the decoder that it is to replace.

    Args:
        directory: The checkpoint, with a config.json as Qwen2 has it.
        expected: The sizes of the decoder.

    Raises:
        CheckpointError: A size differs, or the file is malformed.
    """
    path = directory / CONFIG_FILE
    values = read_json(path, CheckpointError)
    if values.get("model_type") not in _MODEL_TYPES:
        raise CheckpointError(f"{path}: model_type is {shown(values.get('model_type'))}, not one of {_MODEL_TYPES}")
    supported = SUPPORTED | GENERATION_SUPPORTED
    supported.pop("quantization_config")
    check_keys(values, path, supported, READ | IGNORED | GENERATION_IGNORED | {"quantization_config", ROTATION_KEY})
    try:
        decoder = read_decoder_config(values, path)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {first_problem(error)}") from error
    for key in _DECIDING_KEYS:
        found, wanted = getattr(decoder, key), getattr(expected, key)
        if found != wanted:
            raise CheckpointError(f"{path}: {key} is {found!r}, but the model that the decoder is for has {wanted!r}")


def read_rotation(directory: Path) -> Rotation | None:
    """Reads which rotation the weights of a GPTQ checkpoint have absorbed.

    Args:
        directory: The checkpoint.

    Returns:
        The rotation, or None for weights in the model's own basis.

    Raises:
        CheckpointError: The configuration is malformed, or names a rotation that does not exist.
    """
    path = directory / CONFIG_FILE
    facts = read_json(path, CheckpointError).get(ROTATION_KEY)
    if facts is None:
        return None
    try:
        return Rotation.model_validate(facts)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {ROTATION_KEY}: {first_problem(error)}") from error


def _read_dynamic(path: Path, dynamic: dict[str, Any]) -> tuple[tuple[NamePattern, bool | None], ...]:
    if len(dynamic) > _MAX_PATTERNS:
        raise CheckpointError(f"{path}: dynamic has {len(dynamic)} patterns, more than {_MAX_PATTERNS}")
    rules = []
    for text, values in dynamic.items():
        try:
            pattern = NamePattern(text.removeprefix("+:").removeprefix("-:"))
        except ValueError as error:
            raise CheckpointError(f"{path}: dynamic: the pattern {shown(text)} is not supported: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: dynamic: {shown(text)} does not name an object")
        symmetric = _as_bool(path, f"dynamic: {shown(text)}: sym", values["sym"]) if "sym" in values else None
        # Layers behind "-:" are not quantised at all.
        if not text.startswith("-:"):
            rules.append((pattern, symmetric))
    return tuple(rules)


def _as_bool(path: Path, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise CheckpointError(f"{path}: {name} = {shown(value)} is neither true nor false")
    return value


def _as_name(path: Path, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_NAME:
        raise CheckpointError(f"{path}: meta.method = {shown(value)} is no name")
    return value


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
