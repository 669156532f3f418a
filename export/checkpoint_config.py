"""Reads a checkpoint's config files into a `ModelConfig` (docs/valley2.md, "config.json")."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from valley2_edge.config import (
    DecoderConfig,
    EagleConfig,
    ModelConfig,
    PictureConfig,
    ProjectorConfig,
    ProjectorType,
    SiglipConfig,
)
from valley2_edge.errors import CheckpointError

VISION_TOWER = "siglip-so400m-patch14-384"
CROP_SIZES = (224, 336, 384, 448, 512)
OVIS_VOCABULARY = 32000
VISION_ACTIVATIONS = {"siglip": "gelu_pytorch_tanh", "qwen2vl_vit": "quick_gelu"}

_MISSING = object()

_REQUIRED_VALUES: dict[str, tuple[object, object, str]] = {
    # key: (the only value that is supported, the value when the key is absent, what another value would mean)
    "hidden_act": ("silu", "silu", "another decoder activation"),
    "use_sliding_window": (False, False, "sliding-window attention"),
    "mm_use_im_start_end": (False, False, "embeddings around pictures"),
    "mm_vision_select_feature": ("cls_patch", "cls_patch", "another selection of features"),
    "tokenize_function": ("softmax", "softmax", "another visual tokenizer"),
    "token_compressor_config": (None, None, "a token compressor"),
    "only_navit": (False, False, "a model without SigLIP"),
    "navit_merger_hidden_dim": (None, None, "another Eagle merger"),
    "quantization_config": (None, None, "weights that are quantized already"),
    "tokenizer_model_max_length": (None, None, "truncation of the prompt"),
}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: The file is missing or holds something else.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def read_model_config(directory: Path) -> ModelConfig:
    """Reads the architecture of a checkpoint.

    Args:
        directory: Has config.json; generation_config.json and vision_geometry.json are read when present.

    Raises:
        CheckpointError: A file is malformed, or describes a model that this release does not support.
    """
    values = read_json(directory / "config.json")
    _check_supported(values)
    generation_path, geometry_path = directory / "generation_config.json", directory / "vision_geometry.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    geometry = read_json(geometry_path) if geometry_path.is_file() else {}
    try:
        siglip, eagle = _read_geometry(geometry, has_eagle=values.get("eagle_vision_tower") is not None)
        decoder = DecoderConfig(**{name: _required(values, name) for name in _decoder_keys(values)})
        config = ModelConfig(
            siglip=siglip,
            projector=_read_projector(values, siglip),
            eagle=eagle,
            decoder=decoder,
            picture=_read_picture(values),
            stop_tokens=_read_stop_tokens(values, generation),
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{directory}: {key} is not acceptable: {first['msg']}.") from error
    _check_consistent(config, values)
    return config


def _required(values: dict[str, Any], key: str) -> Any:
    value = values.get(key, _MISSING)
    if value is _MISSING:
        raise CheckpointError(f"config.json lacks {key}.")
    return value


def _decoder_keys(values: dict[str, Any]) -> list[str]:
    optional = {"tie_word_embeddings", "max_position_embeddings"}
    return [key for key in DecoderConfig.model_fields if key not in optional or key in values]


def _check_supported(values: dict[str, Any]) -> None:
    if _required(values, "model_type") != "valley":
        raise CheckpointError(f"config.json: model_type is {values['model_type']!r}, not a Valley2 model ('valley').")
    tower = _required(values, "mm_vision_tower")
    if VISION_TOWER not in str(tower):
        raise CheckpointError(f"config.json: mm_vision_tower is {tower!r}; only {VISION_TOWER} is supported.")
    for key, (supported, default, meaning) in _REQUIRED_VALUES.items():
        value = values.get(key, default)
        if value != supported:
            raise CheckpointError(f"config.json: {key} = {value!r} ({meaning}) is not supported, only {supported!r}.")
    scaling = values.get("rope_scaling")
    if scaling is not None:
        raise CheckpointError(f"config.json: rope_scaling = {scaling!r} is not supported, only null.")


def _read_geometry(geometry: dict[str, Any], has_eagle: bool) -> tuple[SiglipConfig, EagleConfig | None]:
    unknown = set(geometry) - {"comment", *VISION_ACTIVATIONS}
    if unknown:
        raise CheckpointError(f"vision_geometry.json has an unknown key {min(unknown)!r}.")
    towers: dict[str, dict[str, Any]] = {}
    for name, activation in VISION_ACTIVATIONS.items():
        tower = geometry.get(name, {})
        if not isinstance(tower, dict):
            raise CheckpointError(f"vision_geometry.json: {name} is not an object.")
        if tower.get("hidden_act", activation) != activation:
            raise CheckpointError(f"vision_geometry.json: {name}.hidden_act must be {activation!r}.")
        towers[name] = {key: value for key, value in tower.items() if key != "hidden_act"}
    eagle = EagleConfig(**towers["qwen2vl_vit"]) if has_eagle else None
    return SiglipConfig(**towers["siglip"]), eagle


def _read_projector(values: dict[str, Any], siglip: SiglipConfig) -> ProjectorConfig:
    kind = _required(values, "mm_projector_type")
    if kind not in get_args(ProjectorType):
        names = ", ".join(get_args(ProjectorType))
        raise CheckpointError(f"config.json: mm_projector_type is {kind!r}; supported are {names}.")
    hidden_size, ratio = _required(values, "hidden_size"), values.get("pixelshuffle_downsample_ratio", 3)
    if not isinstance(ratio, int) or ratio < 1:
        raise CheckpointError(f"config.json: pixelshuffle_downsample_ratio = {ratio!r} is not a positive number.")
    side = siglip.patches_per_side
    if kind == "mlp_pixel_shuffle" and side % ratio != 0:
        raise CheckpointError(f"config.json: pixelshuffle_downsample_ratio {ratio} does not divide {side} patches.")
    width = values.get("mlp_hidden_dim")
    if width is None:
        width = OVIS_VOCABULARY if kind == "ovis_conv_adapter" else hidden_size
    return ProjectorConfig(
        type=kind,
        input_size=_required(values, "mm_hidden_size"),
        mlp_hidden_dim=width,
        output_size=hidden_size,
        pixelshuffle_downsample_ratio=ratio,
        tokens_per_side=side // ratio if kind == "mlp_pixel_shuffle" else (side + 1) // 2,
    )


def _read_picture(values: dict[str, Any]) -> PictureConfig:
    anyres = values.get("anyres", False)
    crop_size = values.get("vit_crop_size", 384)
    if crop_size not in CROP_SIZES:
        raise CheckpointError(f"config.json: vit_crop_size = {crop_size!r} is not one of {CROP_SIZES}.")
    optional = ("max_vision_token", "only_crop_single_image", "use_special_start_end_token")
    given = {key: values[key] for key in optional if key in values}
    canvases = parse_grid_pinpoints(_required(values, "grid_pinpoints"), crop_size) if anyres else ()
    return PictureConfig(anyres=anyres, canvases=canvases, **given)


def parse_grid_pinpoints(value: object, crop_size: int) -> tuple[tuple[int, int], ...]:
    """Lists the candidate canvases in their order of preference (docs/valley2.md, "config.json").

    Args:
        value: "(1x1),...,(3x3)": every (i, j) from the first to the last pair, i outer, in tiles; or a list of
            [width, height] in pixels, or such a list as a string.
        crop_size: Side of a tile in pixels.

    Returns:
        (width, height) of each canvas in pixels.

    Raises:
        CheckpointError: The value has neither form.
    """
    if isinstance(value, str) and "x" in value:
        pairs = [(int(i), int(j)) for i, j in re.findall(r"\((\d+)x(\d+)\)", value)]
        if pairs and pairs[0][0] <= pairs[-1][0] and pairs[0][1] <= pairs[-1][1] and min(pairs[0]) > 0:
            (first_i, first_j), (last_i, last_j) = pairs[0], pairs[-1]
            columns, rows = range(first_i, last_i + 1), range(first_j, last_j + 1)
            return tuple((crop_size * i, crop_size * j) for i in columns for j in rows)
        raise CheckpointError(f"config.json: grid_pinpoints = {value!r} does not name a grid such as (1x1),...,(3x3).")
    try:
        canvases: Any = ast.literal_eval(value) if isinstance(value, str) else value
        sizes = tuple((width, height) for width, height in canvases)
    except (ValueError, SyntaxError, TypeError) as error:
        raise CheckpointError(f"config.json: grid_pinpoints = {value!r} is not a list of [width, height].") from error
    if not sizes or not all(
        isinstance(side, int) and side > 0 and side % crop_size == 0 for canvas in sizes for side in canvas
    ):
        raise CheckpointError(f"config.json: grid_pinpoints = {value!r} has a side that is no multiple of {crop_size}.")
    return sizes


def _read_stop_tokens(values: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
    stop = generation.get("eos_token_id", values.get("eos_token_id"))
    tokens = stop if isinstance(stop, list) else [stop]
    if not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise CheckpointError(f"The stop tokens (eos_token_id = {stop!r}) are not token numbers.")
    return tuple(tokens)


def _check_consistent(config: ModelConfig, values: dict[str, Any]) -> None:
    decoder, siglip, eagle = config.decoder, config.siglip, config.eagle
    head_size = values.get("head_dim") or decoder.head_size
    if decoder.hidden_size % decoder.num_attention_heads or head_size != decoder.head_size or head_size % 2:
        raise CheckpointError("config.json: hidden_size is not num_attention_heads heads of one even size.")
    if decoder.num_attention_heads % decoder.num_key_value_heads:
        raise CheckpointError("config.json: num_key_value_heads does not divide num_attention_heads.")
    if config.projector.input_size != siglip.hidden_size:
        raise CheckpointError(
            f"config.json: mm_hidden_size {config.projector.input_size} is not SigLIP's width {siglip.hidden_size}."
        )
    if siglip.hidden_size % siglip.num_attention_heads:
        raise CheckpointError("vision_geometry.json: SigLIP's hidden_size is not a multiple of its heads.")
    if values.get("vit_crop_size", siglip.image_size) != siglip.image_size:
        raise CheckpointError(
            f"config.json: vit_crop_size {values['vit_crop_size']} is not SigLIP's picture size {siglip.image_size}."
        )
    side = values.get("num_patches_per_side", config.projector.tokens_per_side)
    if side != config.projector.tokens_per_side:
        raise CheckpointError(
            f"config.json: num_patches_per_side is {side}, but {config.projector.type} makes "
            f"{config.projector.tokens_per_side} tokens a side."
        )
    if eagle is not None and eagle.hidden_size != decoder.hidden_size:
        raise CheckpointError(
            f"The Eagle tower ends in {eagle.hidden_size} channels, but the decoder has {decoder.hidden_size}; "
            "a vision_geometry.json beside config.json can give the tower's sizes."
        )
    if eagle is not None and eagle.embed_dim % (4 * eagle.num_heads):
        raise CheckpointError("vision_geometry.json: Eagle's head size is not a multiple of 4.")
