"""Builds a complete Valley2 checkpoint around the trained decoder, with valley2-nano's vision towers.

The decoder is a Llama decoder, which is Qwen2's without biases; they are zero. The towers are not trained for it: only
texts mean anything to this model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from equivalent import padded, padded_shape, rescaled
from llama_decoder import Shape, TrainedModel, Weights
from safetensors.torch import load_file, save_file
from tokenizer_files import write_tokenizer
from work import Base

from valley2_edge.builtin import builtin_checkpoint

Tensors = dict[str, torch.Tensor]

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names of a layer's tensors, and those of Qwen2."""
_OUTER_TENSORS = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")
_WITH_BIAS = ("attn_q", "attn_k", "attn_v")


def qwen2_name(name: str) -> str:
    """The name under which Qwen2 has a tensor of llama.cpp's."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[kind]}.weight"


def build_checkpoint(model: TrainedModel, base: Base, target: Path) -> None:
    """Writes the checkpoint, which appears whole or not at all.

    Args:
        model: The trained model.
        base: How wide it becomes; both are the same function to the last bits.
        target: The checkpoint's folder, which does not exist yet; its parent does.
    """
    nano = builtin_checkpoint("nano")
    if nano is None:
        raise FileNotFoundError("valley2-nano is not in this installation")
    shape, weights = model.shape, rescaled(model.tensors, model.shape)
    norm_type = torch.bfloat16
    if base == "padded":
        # The padded norms keep the values of the plain ones, in bfloat16, times a factor that float32 needs.
        rounded = {name: _bfloat16_values(value) if value.ndim == 1 else value for name, value in weights.items()}
        shape, weights, norm_type = padded_shape(shape), padded(rounded, shape), torch.float32
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    tensors = _decoder(weights, norm_type) | _vision(
        nano, shape.hidden, float(torch.from_numpy(model.tensors["token_embd.weight"]).std())
    )
    save_file(tensors, unfinished / "model.safetensors", {"format": "pt"})
    _write_configuration(shape, nano, unfinished)
    write_tokenizer(model, nano, unfinished)
    unfinished.rename(target)


def _bfloat16_values(values: Any) -> Any:
    return torch.from_numpy(values).to(torch.bfloat16).float().numpy()


def _decoder(weights: Weights, norm_type: torch.dtype) -> Tensors:
    tensors = {}
    for name, values in weights.items():
        wanted = norm_type if values.ndim == 1 else torch.bfloat16
        tensors[qwen2_name(name)] = torch.from_numpy(values).contiguous().to(wanted)
        if any(f".{kind}." in name for kind in _WITH_BIAS):
            bias = qwen2_name(name).removesuffix("weight") + "bias"
            tensors[bias] = torch.zeros(len(values), dtype=torch.bfloat16)
    return tensors


def _vision(nano: Path, hidden: int, deviation: float) -> Tensors:
    """valley2-nano's towers; what depends on the decoder's width is random, of the embeddings' standard deviation."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, tensor in load_file(nano / "model.safetensors").items():
        if name.startswith("model.layers.") or name in (
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.norm.weight",
        ):
            continue
        if name == "model.mm_projector.embedding.weight":
            tensor = torch.randn(tensor.shape[0], hidden, generator=generator) * deviation
        elif name.endswith("merger.mlp.2.weight"):
            columns = tensor.shape[1]
            tensor = torch.randn(hidden, columns, generator=generator) * deviation / columns**0.5
        elif name.endswith("merger.mlp.2.bias"):
            tensor = torch.zeros(hidden)
        tensors[name] = tensor.to(torch.bfloat16).contiguous()
    return tensors


def _write_configuration(shape: Shape, nano: Path, target: Path) -> None:
    configuration = json.loads((nano / "config.json").read_text("utf-8"))
    configuration |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": shape.rms_epsilon,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    geometry = json.loads((nano / "vision_geometry.json").read_text("utf-8"))
    geometry["qwen2vl_vit"]["hidden_size"] = shape.hidden
    generation = {
        "bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": True, "temperature": 0.7,
        "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05,
    }  # fmt: skip
    for name, content in (
        ("config.json", configuration), ("vision_geometry.json", geometry), ("generation_config.json", generation),
    ):  # fmt: skip
        (target / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
