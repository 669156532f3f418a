"""Reads the trained model, a GGUF file of a Llama decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from llama_decoder import Shape, TrainedModel, halves_of_pairs


def read_model(path: Path) -> TrainedModel:
    """Reads and dequantises the whole file, 540 MB of float32."""
    reader = gguf.GGUFReader(path)
    shape = _shape(reader)
    tensors = {tensor.name: _dequantised(tensor) for tensor in reader.tensors}
    for name, tensor in tensors.items():
        if name.endswith("attn_q.weight"):
            tensors[name] = halves_of_pairs(tensor, shape.heads)
        elif name.endswith("attn_k.weight"):
            tensors[name] = halves_of_pairs(tensor, shape.kv_heads)
    kinds = _field(reader, "tokenizer.ggml.token_type")
    controls = kinds.count(gguf.TokenType.CONTROL)
    if any(kind != gguf.TokenType.CONTROL for kind in kinds[:controls]):
        raise ValueError(f"{path}: the control tokens are not the first ones")
    tokens, merges = (_field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    return TrainedModel(shape, tensors, tokens, merges, controls)


def _dequantised(tensor: Any) -> npt.NDArray[np.float32]:
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    return np.array(values, np.float32).reshape([int(size) for size in reversed(tensor.shape)])


def _field(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()


def _shape(reader: Any) -> Shape:
    hidden, heads = _field(reader, "llama.embedding_length"), _field(reader, "llama.attention.head_count")
    return Shape(
        hidden=hidden,
        layers=_field(reader, "llama.block_count"),
        heads=heads,
        kv_heads=_field(reader, "llama.attention.head_count_kv"),
        head_size=hidden // heads,
        intermediate=_field(reader, "llama.feed_forward_length"),
        vocabulary=len(_field(reader, "tokenizer.ggml.tokens")),
        context=_field(reader, "llama.context_length"),
        rms_epsilon=_field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_theta=float(_field(reader, "llama.rope.freq_base")),
    )
