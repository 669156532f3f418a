"""Writes a checkpoint of any size with seeded random weights, in the released layout and with bounded memory."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from math import prod
from pathlib import Path
from statistics import NormalDist
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from valley2_edge.config import (
    DecoderConfig,
    EagleConfig,
    ModelConfig,
    PictureConfig,
    ProjectorConfig,
    ProjectorType,
    SiglipConfig,
    TokenizeFunction,
)
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.tensor_names import Shape, pooling_head_tensors, required_tensors
from valley2_edge.export.control import Progress, no_progress

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
RELEASED_SHARD_BYTES = 5_000_000_000
PIECE_ELEMENTS = 4_194_301
"""Number of elements that are made at a time: a prime, so that no matrix has rows that repeat in step with it."""
BF16_BYTES = 2
ALIGNMENT = 8
OUTLIER_CHANNELS = 1000
"""One channel in this many is an outlier."""
_OUTLIER_EXPONENT = 4
_BF16_MANTISSA_BITS = 7


def small_config(
    projector: ProjectorType = "ovis_conv_adapter",
    *,
    eagle: bool = True,
    tied: bool = False,
    vocab_size: int = 679,
    stop_tokens: tuple[int, ...] = (645, 643),
    tokenize_function: TokenizeFunction = "softmax",
) -> ModelConfig:
    """A Valley2 for demos and tests: the released head sizes and patch map, hardly any layers.

    Args:
        projector: The type of the projector.
        eagle: Whether the model has the Eagle tower.
        tied: Whether the output matrix is the embedding table.
        vocab_size: Rows of the embedding table, at least as many as the tokenizer has entries.
        stop_tokens: Ids of the tokens that end an answer.
        tokenize_function: How an ovis_conv_adapter makes a token of scores.
    """
    size, siglip = 256, SiglipConfig(hidden_size=144, num_attention_heads=2, num_hidden_layers=2, intermediate_size=272)
    return ModelConfig(
        siglip=siglip,
        projector=ProjectorConfig(
            type=projector,
            input_size=siglip.hidden_size,
            mlp_hidden_dim=320,
            output_size=size,
            tokens_per_side=9 if projector == "mlp_pixel_shuffle" else 14,
            tokenize_function=tokenize_function,
        ),
        eagle=EagleConfig(embed_dim=160, num_heads=2, depth=2, hidden_size=size) if eagle else None,
        decoder=DecoderConfig(
            hidden_size=size,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=2,
            vocab_size=vocab_size,
            tie_word_embeddings=tied,
        ),
        picture=PictureConfig(canvases=tuple((384 * i, 384 * j) for i in (1, 2, 3) for j in (1, 2, 3))),
        stop_tokens=stop_tokens,
    )


def write_synthetic_checkpoint(
    directory: Path,
    config: ModelConfig,
    tokenizer: Path,
    *,
    seed: int = 0,
    shard_bytes: int = RELEASED_SHARD_BYTES,
    pooling_head: bool = True,
    outliers: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes config, tokenizer and bf16 shards of a random Valley2.

    Matrices have the deviation 1 / sqrt(inputs), so that activations keep their scale through the layers; each tensor's
    numbers depend on the seed and its name only.

    Large language models have a few channels whose activations are some twenty times the others' in every layer
    (LLM.int8, arXiv 2208.07339). With `outliers` the norms of the decoder multiply the same channels by 16 in all
    layers, and so do rows of `up_proj`, whose channels are the inputs of `down_proj`.

    Args:
        directory: The directory, which is made and must not hold a checkpoint yet.
        config: The architecture.
        tokenizer: A directory with tokenizer files, which are copied.
        seed: Seed of the weights.
        shard_bytes: Largest size of a shard; when everything fits in one file there is no index.
        pooling_head: Whether to write SigLIP's unused pooling head, as the release does.
        outliers: Whether some channels of the decoder are far larger than the rest.
        progress: Called with "checkpoint", the number of bytes written and the number of all bytes.

    Raises:
        CheckpointError: The directory holds a checkpoint already, or the tokenizer is not there.
        OSError: The files cannot be written.
    """
    if (directory / "config.json").exists():
        raise CheckpointError(f"{directory} holds a checkpoint already.")
    if not (tokenizer / "tokenizer.json").is_file():
        raise CheckpointError(f"{tokenizer} has no tokenizer.json.")
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, directory / name)
    shapes = required_tensors(config) | (pooling_head_tensors(config.siglip) if pooling_head else {})
    pieces = partial(_random_pieces, seed=seed, outliers=outliers)
    _write_shards(directory, _cut(shapes, shard_bytes), pieces, progress or no_progress)
    # The config comes last: a directory with a config is complete.
    write_config_files(directory, config)


def write_config_files(directory: Path, config: ModelConfig) -> None:
    """Writes generation_config.json, vision_geometry.json where sizes are not the released ones, and config.json.

    Args:
        directory: An existing directory.
        config: The architecture.

    Raises:
        OSError: A file cannot be written.
    """
    _write_json(directory / "generation_config.json", _generation_config(config))
    if (geometry := _vision_geometry(config)) is not None:
        _write_json(directory / "vision_geometry.json", geometry)
    _write_json(directory / "config.json", released_config(config))


def released_config(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json, with the keys of the release (docs/valley2.md, "config.json").

    Args:
        config: The architecture.
    """
    picture, projector = config.picture, config.projector
    return config.decoder.model_dump() | {
        "anyres": picture.anyres,
        "architectures": ["ValleyQwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": config.stop_tokens[-1],
        "eagle_vision_tower": None if config.eagle is None else "Qwen/Qwen2-VL-7B-Instruct",
        "eos_token_id": config.stop_tokens[0],
        "grid_pinpoints": _grid_pinpoints(config),
        "hidden_act": "silu",
        "max_vision_token": picture.max_vision_token,
        "mlp_hidden_dim": projector.mlp_hidden_dim,
        "mm_hidden_size": projector.input_size,
        "mm_projector_type": projector.type,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "model_type": "valley",
        "num_patches_per_side": projector.tokens_per_side,
        "only_crop_single_image": picture.only_crop_single_image,
        "pixelshuffle_downsample_ratio": projector.pixelshuffle_downsample_ratio,
        "rope_scaling": None,
        "tokenize_function": projector.tokenize_function,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "use_special_start_end_token": picture.use_special_start_end_token,
        "vit_crop_size": config.siglip.image_size,
        "vit_patch_size": config.siglip.patch_size,
    }


def _grid_pinpoints(config: ModelConfig) -> str:
    side = config.siglip.image_size
    tiles = [(width // side, height // side) for width, height in config.picture.canvases]
    if tiles:
        (first_i, first_j), (last_i, last_j) = tiles[0], tiles[-1]
        if tiles == [(i, j) for i in range(first_i, last_i + 1) for j in range(first_j, last_j + 1)]:
            return f"({first_i}x{first_j}),...,({last_i}x{last_j})"
    return str([list(canvas) for canvas in config.picture.canvases])


def _generation_config(config: ModelConfig) -> dict[str, Any]:
    stop = list(config.stop_tokens)
    return {
        "bos_token_id": stop[-1], "do_sample": True, "eos_token_id": stop, "pad_token_id": stop[-1],
        "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
    }  # fmt: skip


def _vision_geometry(config: ModelConfig) -> dict[str, Any] | None:
    eagle = config.eagle or EagleConfig(hidden_size=config.decoder.hidden_size)
    if config.siglip == SiglipConfig() and eagle == EagleConfig():
        return None
    return {"siglip": config.siglip.model_dump(), "qwen2vl_vit": eagle.model_dump()}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")


def _cut(shapes: dict[str, Shape], shard_bytes: int) -> list[dict[str, Shape]]:
    shards: list[dict[str, Shape]] = [{}]
    size = 0
    for name, shape in shapes.items():
        tensor_bytes = prod(shape) * BF16_BYTES
        if shards[-1] and size + tensor_bytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += tensor_bytes
    return shards


def _write_shards(
    directory: Path,
    shards: list[dict[str, Shape]],
    pieces: Callable[[str, Shape], Iterator[NDArray[np.uint16]]],
    progress: Progress,
) -> None:
    total = sum(prod(shape) * BF16_BYTES for shard in shards for shape in shard.values())
    done = 0
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards):
        file_name = f"model-{index + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        with (directory / file_name).open("wb") as stream:
            _write_header(stream, shard)
            for name, shape in shard.items():
                weight_map[name] = file_name
                for piece in pieces(name, shape):
                    stream.write(piece.data)
                    done += piece.nbytes
                    progress("checkpoint", done, total)
    if len(shards) > 1:
        index_values = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index_values)


def _write_header(stream: BinaryIO, shard: dict[str, Shape]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shard.items():
        end = offset + prod(shape) * BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)


def _random_pieces(name: str, shape: Shape, *, seed: int, outliers: bool) -> Iterator[NDArray[np.uint16]]:
    """The bits of the tensor's bf16 numbers in order, at most `PIECE_ELEMENTS` at once."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))
    mean, deviation = _distribution(name, shape)
    # 16 random bits choose a quantile, which is several times faster than drawing from the normal distribution.
    table = _bf16_bits(_normal_quantiles() * np.float32(deviation) + np.float32(mean))
    rows = _outlier_rows(name, shape[0], seed) if outliers else []
    width, total = prod(shape[1:]), prod(shape)
    for start in range(0, total, PIECE_ELEMENTS):
        count = min(total - start, PIECE_ELEMENTS)
        piece = table[np.frombuffer(generator.bytes(2 * count), np.uint16)]
        for row in rows:
            # Multiplying by a power of two adds to the exponent.
            piece[max(0, row * width - start) : max(0, (row + 1) * width - start)] += np.uint16(
                _OUTLIER_EXPONENT << _BF16_MANTISSA_BITS
            )
        yield piece


def _outlier_rows(name: str, count: int, seed: int) -> list[int]:
    """The rows of a tensor that make outlier channels; they are the same for all tensors with as many rows."""
    if not name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight", "mlp.up_proj.weight")):
        return []
    digest = hashlib.sha256(f"{seed}:outliers of {count}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    return [int(row) for row in generator.choice(count, max(1, count // OUTLIER_CHANNELS), replace=False)]


@cache
def _normal_quantiles() -> NDArray[np.float32]:
    """65536 equally likely numbers of the standard normal distribution."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((index + 0.5) / 65536) for index in range(65536)], np.float32)


def _bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to the nearest bf16, ties to even; numpy has no such type."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _distribution(name: str, shape: Shape) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's weights."""
    if len(shape) == 1:
        is_scale = "norm" in name or name.endswith(("merger.ln_q.weight", "mm_projector.mlp.1.weight"))
        return (1.0, 0.1) if is_scale and name.endswith("weight") else (0.0, 0.02)
    if name.endswith(("embed_tokens.weight", "position_embedding.weight", "embedding.weight")):
        return 0.0, 1.0
    return 0.0, prod(shape[1:]) ** -0.5
