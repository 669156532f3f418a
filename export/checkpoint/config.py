"""Reads a checkpoint's config files into a `ModelConfig` (docs/valley2.md, "config.json")."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from valley2_edge.config import (
    MAX_CANVASES,
    DecoderConfig,
    EagleConfig,
    ModelConfig,
    PictureConfig,
    ProjectorConfig,
    ProjectorType,
    SiglipConfig,
    TokenizeFunction,
    first_problem,
)
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.keys import (
    GENERATION_IGNORED,
    GENERATION_SUPPORTED,
    IGNORED,
    READ,
    SUPPORTED,
    check_keys,
    check_layer_types,
    read_rope_theta,
)
from valley2_edge.outside_files import parse_json, read_json, shown

VISION_TOWER = "siglip-so400m-patch14-384"
CROP_SIZES = (224, 336, 384, 448, 512)
OVIS_VOCABULARY = 32000
VISION_ACTIVATIONS = {"siglip": "gelu_pytorch_tanh", "qwen2vl_vit": "quick_gelu"}
DTYPES = (None, "auto", "bfloat16", "float16", "float32")
_DECODER_OPTIONAL = ("tie_word_embeddings", "max_position_embeddings")
_PICTURE_OPTIONAL = ("max_vision_token", "only_crop_single_image", "use_special_start_end_token")
# A tokenizer with one of these settings would make other tokens, or another text from them.
_TOKENIZER_SWITCHES = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "split_special_tokens",
)  # fmt: skip
_MAX_DIGITS = 6
_TURN_MARKS = ("<|im_start|>", "<|im_end|>")

_MISSING = object()


def read_model_config(directory: Path) -> ModelConfig:
    """Reads the architecture of a checkpoint.

    Args:
        directory: The checkpoint. It must have config.json; generation_config.json, tokenizer_config.json and
            vision_geometry.json are read where they exist.

    Raises:
        CheckpointError: A file is malformed, or describes a model that this release does not support.
    """
    values = read_json(directory / "config.json", CheckpointError)
    generation, geometry, tokenizer = (
        read_json(path, CheckpointError) if (path := directory / name).exists() else {}
        for name in ("generation_config.json", "vision_geometry.json", "tokenizer_config.json")
    )
    _check_supported(values)
    check_keys(generation, "generation_config.json", GENERATION_SUPPORTED, GENERATION_IGNORED | {"eos_token_id"})
    _check_tokenizer(tokenizer)
    try:
        siglip, eagle = _read_geometry(geometry, has_eagle=values.get("eagle_vision_tower") is not None)
        _check_sizes(values, siglip)
        decoder = read_decoder_config(values, "config.json")
        return ModelConfig(
            siglip=siglip,
            projector=_read_projector(values, siglip, decoder.hidden_size),
            eagle=eagle,
            decoder=decoder,
            picture=_read_picture(values),
            stop_tokens=_read_stop_tokens(values, generation),
        )
    except ValidationError as error:
        raise CheckpointError(f"{directory}: {first_problem(error)}.") from error


def read_decoder_config(values: dict[str, Any], where: object) -> DecoderConfig:
    """Reads the decoder's part of the config of a Valley2 or a Qwen2 model.

    Args:
        values: The content of config.json.
        where: The file, for messages.

    Raises:
        CheckpointError: A key is missing, or describes another decoder than Qwen2.5's.
        ValidationError: A value is out of bounds.
    """
    check_layer_types(values, where)
    theta = read_rope_theta(values, where)
    values = values if theta is None else {**values, "rope_theta": theta}
    names = [name for name in DecoderConfig.model_fields if name not in _DECODER_OPTIONAL or name in values]
    decoder = DecoderConfig(**{name: _required(values, name, where) for name in names})
    head_size = values.get("head_dim")
    if head_size is not None and head_size != decoder.hidden_size / decoder.num_attention_heads:
        raise CheckpointError(f"{where}: head_dim {shown(head_size)} is not hidden_size / num_attention_heads.")
    return decoder


def _required(values: dict[str, Any], key: str, where: object = "config.json") -> Any:
    value = values.get(key, _MISSING)
    if value is _MISSING:
        raise CheckpointError(f"{where} lacks {key}.")
    return value


def _check_supported(values: dict[str, Any]) -> None:
    if _required(values, "model_type") != "valley":
        raise CheckpointError(
            f"config.json: model_type is {shown(values['model_type'])}, not a Valley2 model ('valley')."
        )
    tower = _required(values, "mm_vision_tower")
    if not isinstance(tower, str) or VISION_TOWER not in tower:
        raise CheckpointError(f"config.json: mm_vision_tower is {shown(tower)}; only {VISION_TOWER} is supported.")
    supported = SUPPORTED | GENERATION_SUPPORTED
    check_keys(values, "config.json", supported, READ | IGNORED | GENERATION_IGNORED)
    eagle = values.get("eagle_vision_tower")
    if eagle is not None and (not isinstance(eagle, str) or not eagle):
        raise CheckpointError(f"config.json: eagle_vision_tower = {shown(eagle)} is neither a name nor null.")
    if values.get("model_class") == "valley-video":
        raise CheckpointError("config.json: model_class = 'valley-video' (one picture in all) is not supported.")
    for key in ("dtype", "torch_dtype"):
        if values.get(key) not in DTYPES:
            raise CheckpointError(f"config.json: {key} = {shown(values[key])} is not one of {DTYPES[2:]}.")


def _check_sizes(values: dict[str, Any], siglip: SiglipConfig) -> None:
    """Refuses keys that contradict the geometry of the towers."""
    for key, size in (("vit_crop_size", siglip.image_size), ("vit_patch_size", siglip.patch_size)):
        if values.get(key, size) != size:
            raise CheckpointError(f"config.json: {key} {shown(values[key])} is not SigLIP's {size}.")


def _check_tokenizer(values: dict[str, Any]) -> None:
    for key in _TOKENIZER_SWITCHES:
        if values.get(key) not in (None, False):
            raise CheckpointError(f"tokenizer_config.json: {key} = {shown(values[key])} is not supported, only false.")
    if values.get("errors", "replace") != "replace":
        raise CheckpointError(f"tokenizer_config.json: errors = {shown(values['errors'])} is not supported.")
    template = values.get("chat_template")
    if isinstance(template, str) and not all(mark in template for mark in _TURN_MARKS):
        raise CheckpointError("tokenizer_config.json: chat_template is not Qwen2.5's: it lacks <|im_start|>.")


def _read_geometry(geometry: dict[str, Any], has_eagle: bool) -> tuple[SiglipConfig, EagleConfig | None]:
    unknown = set(geometry) - {"comment", *VISION_ACTIVATIONS}
    if unknown:
        raise CheckpointError(f"vision_geometry.json has an unknown key {shown(min(unknown))}.")
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


def _read_projector(values: dict[str, Any], siglip: SiglipConfig, hidden_size: int) -> ProjectorConfig:
    kind = _required(values, "mm_projector_type")
    if kind not in get_args(ProjectorType):
        names = ", ".join(get_args(ProjectorType))
        raise CheckpointError(f"config.json: mm_projector_type is {shown(kind)}; supported are {names}.")
    ratio = values.get("pixelshuffle_downsample_ratio", 3)
    if type(ratio) is not int or ratio < 1:
        raise CheckpointError(f"config.json: pixelshuffle_downsample_ratio = {shown(ratio)} is not a positive number.")
    function = values.get("tokenize_function", "softmax")
    if function == "gumbel_argmax":
        raise CheckpointError(
            "config.json: tokenize_function = 'gumbel_argmax' is not supported: the reference itself fails on it, for "
            "it asks for a temperature that its projector does not have."
        )
    if function not in get_args(TokenizeFunction):
        names = " and ".join(get_args(TokenizeFunction))
        raise CheckpointError(f"config.json: tokenize_function is {shown(function)}; supported are {names}.")
    side = siglip.patches_per_side
    side = side // ratio if kind == "mlp_pixel_shuffle" else (side + 1) // 2
    width = values.get("mlp_hidden_dim")
    if width is None:
        width = OVIS_VOCABULARY if kind == "ovis_conv_adapter" else hidden_size
    return ProjectorConfig(
        type=kind,
        input_size=_required(values, "mm_hidden_size"),
        mlp_hidden_dim=width,
        output_size=hidden_size,
        pixelshuffle_downsample_ratio=ratio,
        tokens_per_side=values.get("num_patches_per_side", side),
        tokenize_function=function,
    )


def _read_picture(values: dict[str, Any]) -> PictureConfig:
    anyres = values.get("anyres", False)
    crop_size = values.get("vit_crop_size", 384)
    if crop_size not in CROP_SIZES:
        raise CheckpointError(f"config.json: vit_crop_size = {shown(crop_size)} is not one of {CROP_SIZES}.")
    given = {key: values[key] for key in _PICTURE_OPTIONAL if key in values}
    canvases = parse_grid_pinpoints(_required(values, "grid_pinpoints"), crop_size) if anyres else ()
    return PictureConfig(anyres=anyres, canvases=canvases, **given)


def parse_grid_pinpoints(value: object, crop_size: int) -> tuple[tuple[int, int], ...]:
    """Reads the list of candidate canvases in their order of preference (docs/valley2.md, "config.json").

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
        numbers = re.findall(r"\((\d+)x(\d+)\)", value)
        short = all(len(number) < _MAX_DIGITS for pair in numbers for number in pair)
        pairs = [(int(i), int(j)) for i, j in numbers] if short else []
        if pairs and pairs[0][0] <= pairs[-1][0] and pairs[0][1] <= pairs[-1][1] and min(pairs[0]) > 0:
            (first_i, first_j), (last_i, last_j) = pairs[0], pairs[-1]
            columns, rows = range(first_i, last_i + 1), range(first_j, last_j + 1)
            if len(columns) * len(rows) <= MAX_CANVASES:
                return tuple((crop_size * i, crop_size * j) for i in columns for j in rows)
            raise CheckpointError(
                f"config.json: grid_pinpoints = {shown(value)} has more than {MAX_CANVASES} canvases."
            )
        raise CheckpointError(
            f"config.json: grid_pinpoints = {shown(value)} does not name a grid such as (1x1),...,(3x3)."
        )
    # Python's tuples are lists to JSON.
    listed = value.replace("(", "[").replace(")", "]") if isinstance(value, str) else value
    canvases: Any = (
        parse_json(listed, "config.json: grid_pinpoints", CheckpointError) if isinstance(listed, str) else listed
    )
    try:
        sizes = tuple((width, height) for width, height in canvases)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"config.json: grid_pinpoints = {shown(value)} is not a list of [width, height]."
        ) from error
    if not sizes or not all(
        type(side) is int and side > 0 and side % crop_size == 0 for canvas in sizes for side in canvas
    ):
        raise CheckpointError(
            f"config.json: grid_pinpoints = {shown(value)} has a side that is no multiple of {crop_size}."
        )
    return sizes


def _read_stop_tokens(values: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
    given = generation.get("eos_token_id")
    stop = values.get("eos_token_id") if given is None else given
    tokens = stop if isinstance(stop, list) else [stop]
    if not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise CheckpointError(f"The stop tokens (eos_token_id = {shown(stop)}) are not token numbers.")
    return tuple(dict.fromkeys(tokens))
