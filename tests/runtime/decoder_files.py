"""Small random decoders in the bundle's file layout, written with plain numpy, and the same weights for torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PANEL = 64
PADDING = {"int8": 128, "int4": 8, "nf4": 7}
"""The value that stands for zero, of the rows that fill up a panel."""
NF4_LEVELS = np.array([-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127], np.float32)


@dataclasses.dataclass(frozen=True)
class TinyConfig:
    """Odd on purpose: a vocabulary that fills no panel, query heads in groups of three."""

    hidden_size: int = 192
    intermediate_size: int = 320
    num_hidden_layers: int = 3
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    vocab_size: int = 331
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = False

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


def random_weights(config: TinyConfig, seed: int = 0) -> dict[str, Array]:
    """Float32 weights under transformers' names."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, deviation: float = 0.08) -> Array:
        return (random.standard_normal(shape) * deviation).astype(np.float32)

    hidden, middle, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    kv_size = config.num_key_value_heads * config.head_size
    weights = {
        "model.embed_tokens.weight": normal(vocabulary, hidden, deviation=1.0).astype(np.float16).astype(np.float32),
        "model.norm.weight": 1 + normal(hidden),
        "lm_head.weight": normal(vocabulary, hidden),
    }
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", kv_size), ("v", kv_size)):
            weights[f"{prefix}self_attn.{name}_proj.weight"] = normal(rows, hidden)
            weights[f"{prefix}self_attn.{name}_proj.bias"] = normal(rows, deviation=0.5)
        weights[f"{prefix}self_attn.o_proj.weight"] = normal(hidden, hidden)
        weights[f"{prefix}mlp.gate_proj.weight"] = normal(middle, hidden)
        weights[f"{prefix}mlp.up_proj.weight"] = normal(middle, hidden)
        weights[f"{prefix}mlp.down_proj.weight"] = normal(hidden, middle)
        weights[f"{prefix}input_layernorm.weight"] = 1 + normal(hidden)
        weights[f"{prefix}post_attention_layernorm.weight"] = 1 + normal(hidden)
    return weights


def matrix_parts(config: TinyConfig) -> dict[str, list[str]]:
    """The bundle's matrix name -> the checkpoint's matrices, from top to bottom."""
    parts = {"lm_head": ["lm_head"]}
    for layer in range(config.num_hidden_layers):
        source, name = f"model.layers.{layer}.", f"layers.{layer}."
        parts[name + "attention.qkv"] = [f"{source}self_attn.{part}_proj" for part in "qkv"]
        parts[name + "attention.output"] = [source + "self_attn.o_proj"]
        parts[name + "mlp.gate_up"] = [source + "mlp.gate_proj", source + "mlp.up_proj"]
        parts[name + "mlp.down"] = [source + "mlp.down_proj"]
    return parts


def _panels(rows: Array, fill: float) -> Array:
    """(N, ...) padded to whole panels: (P, 64, ...)."""
    padding = -len(rows) % PANEL
    padded = np.concatenate([rows, np.full((padding, *rows.shape[1:]), fill, rows.dtype)])
    return padded.reshape(-1, PANEL, *rows.shape[1:])


def _rounded(matrix: Array, group_size: int, bits: int, symmetric: bool) -> tuple[Array, Array, Array]:
    """Round to nearest: q (N, K) counted from 0, scales (N, K / g) float16, zeros (N, K / g)."""
    groups = matrix.reshape(len(matrix), -1, group_size)
    if bits == 8:
        scales = (np.abs(groups).max(-1) / 127).astype(np.float16)
        q = np.clip(np.rint(groups / scales[..., None].astype(np.float32)), -127, 127) + 128
        zeros = np.full(scales.shape, 128.0)
    elif symmetric:
        scales = (np.abs(groups).max(-1) / 7).astype(np.float16)
        q = np.clip(np.rint(groups / scales[..., None].astype(np.float32)) + 8, 0, 15)
        zeros = np.full(scales.shape, 8.0)
    else:
        low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
        scales = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, 15)
        q = np.clip(np.rint(groups / scales[..., None].astype(np.float32)) + zeros[..., None], 0, 15)
    return q.reshape(matrix.shape).astype(np.uint8), scales, zeros.astype(np.uint8)


def _nearest_codes(matrix: Array, group_size: int) -> tuple[Array, Array]:
    """The nearest level of the nf4 table: its index (N, K), and scales (N, K / g) float16."""
    groups = matrix.reshape(len(matrix), -1, group_size)
    scales = (np.abs(groups).max(-1) / 127).astype(np.float16)
    distances = np.abs(groups[..., None] / scales[..., None, None].astype(np.float32) - NF4_LEVELS)
    return distances.argmin(-1).reshape(matrix.shape).astype(np.uint8), scales


def pack_matrix(matrix: Array, precision: str, group_size: int, symmetric: bool) -> tuple[dict[str, Array], Array]:
    """The tensors of a matrix by the end of their names, and the float32 matrix that they stand for."""
    columns = matrix.shape[1]
    if precision in ("fp32", "fp16"):
        kind = np.float32 if precision == "fp32" else np.float16
        exact = matrix.astype(kind)
        return {"weight": _panels(exact, 0.0).transpose(0, 2, 1)}, exact.astype(np.float32)
    bits = 8 if precision == "int8" else 4
    if precision == "nf4":
        q, scales = _nearest_codes(matrix, group_size)
        steps = NF4_LEVELS[q]
    else:
        q, scales, zeros = _rounded(matrix, group_size, bits, symmetric)
        steps = q.astype(np.float32) - np.repeat(zeros, group_size, axis=1)
    exact = steps * np.repeat(scales, group_size, axis=1).astype(np.float32)
    padded = _panels(q, PADDING[precision])  # (P, 64, K)
    if bits == 8:
        weight = padded.reshape(len(padded), PANEL, columns // 4, 4).transpose(0, 2, 1, 3)
    else:
        halves = padded.reshape(len(padded), PANEL, columns // 8, 2, 4)
        weight = (halves[:, :, :, 0] | halves[:, :, :, 1] << 4).transpose(0, 2, 1, 3)
    tensors = {"weight": weight, "scales": _panels(scales, 0.0).transpose(0, 2, 1)}
    if bits == 4 and not symmetric:
        tensors["zeros"] = _panels(zeros, 8).transpose(0, 2, 1)
    return tensors, exact


def write_safetensors(path: Path, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """A safetensors file whose tensors all begin at multiples of 64 bytes."""
    names = {"float32": "F32", "float16": "F16", "uint8": "U8"}
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        content = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            "dtype": names[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
        padding = -len(data) % 64
        if padding:
            offsets = [len(data), len(data) + padding]
            header[f"_pad.{len(header)}"] = {"dtype": "U8", "shape": [padding], "data_offsets": offsets}
            data += bytes(padding)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_decoder(
    directory: Path,
    config: Any,
    weights: dict[str, Array],
    precision: str = "fp32",
    group_size: int = 32,
    symmetric: bool = True,
    damage: Callable[[dict[str, Array]], None] | None = None,
) -> dict[str, Array]:
    """Writes decoder.safetensors and embeddings.safetensors.

    Args:
        damage: may change the tensors before they are written.

    Returns:
        The weights that the files stand for, under transformers' names.
    """
    exact, tensors, matrices = dict(weights), {}, {}
    for name, parts in matrix_parts(config).items():
        stacked = np.concatenate([weights[part + ".weight"] for part in parts])
        packed, dequantised = pack_matrix(stacked, precision, group_size, symmetric)
        tensors |= {f"{name}.{end}": tensor for end, tensor in packed.items()}
        if name.endswith("qkv"):
            tensors[name + ".bias"] = np.concatenate([weights[part + ".bias"] for part in parts])
        boundaries = np.cumsum([len(weights[part + ".weight"]) for part in parts])[:-1]
        for part, matrix in zip(parts, np.split(dequantised, boundaries), strict=True):
            exact[part + ".weight"] = matrix
        matrices[name] = {"precision": precision, "rows": stacked.shape[0], "columns": stacked.shape[1]}
        matrices[name] |= {"group_size": group_size, "symmetric": precision != "int4" or symmetric}
        if precision == "nf4":
            matrices[name] |= {"precision": "int4", "code": "nf4"}
    for layer in range(config.num_hidden_layers):
        source = f"model.layers.{layer}."
        tensors[f"layers.{layer}.input_norm"] = weights[source + "input_layernorm.weight"]
        tensors[f"layers.{layer}.post_attention_norm"] = weights[source + "post_attention_layernorm.weight"]
    tensors["norm"] = weights["model.norm.weight"]
    if damage is not None:
        damage(tensors)
    plain = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    metadata = {
        "format": "valley2-decoder",
        "format_version": "1",
        "config": json.dumps(plain | {"head_size": config.head_size}),
        "matrices": json.dumps(matrices),
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "decoder.safetensors", tensors, metadata)
    table = {"embeddings.weight": weights["model.embed_tokens.weight"].astype(np.float16)}
    write_safetensors(
        directory / "embeddings.safetensors", table, {"format": "valley2-embeddings", "format_version": "1"}
    )
    return exact
