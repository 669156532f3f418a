"""Makes the genai_config.json with which onnxruntime-genai opens the ONNX decoder of a bundle (docs/bundle.md)."""

from __future__ import annotations

from typing import Any

from valley2_edge.bundle import ONNX_EMBEDDINGS_FILE, onnx_decoder_file, onnx_head_file
from valley2_edge.config import ModelConfig
from valley2_edge.precisions import OnnxArithmetic


def genai_config(config: ModelConfig, arithmetic: OnnxArithmetic) -> dict[str, Any]:
    """The content of genai_config.json: three graphs in a row that answer questions without pictures.

    Args:
        config: The architecture.
        arithmetic: The arithmetic of the graphs that the file names.
    """
    decoder = config.decoder
    names = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    presents = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    layers = range(decoder.num_hidden_layers)
    pasts = [f"past_key_values.{layer}.{part}" for layer in layers for part in ("key", "value")]
    following = [f"present.{layer}.{part}" for layer in layers for part in ("key", "value")]
    return {
        "model": {
            "type": "decoder-pipeline",
            "bos_token_id": config.stop_tokens[-1],
            "eos_token_id": list(config.stop_tokens),
            "pad_token_id": config.stop_tokens[-1],
            "vocab_size": decoder.vocab_size,
            "context_length": decoder.max_position_embeddings,
            "decoder": {
                "head_size": decoder.head_size,
                "hidden_size": decoder.hidden_size,
                "num_attention_heads": decoder.num_attention_heads,
                "num_key_value_heads": decoder.num_key_value_heads,
                "num_hidden_layers": decoder.num_hidden_layers,
                "session_options": {"provider_options": []},
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **names},
                "outputs": {"logits": "logits", **presents},
                "pipeline": [
                    {
                        "embeddings": {
                            "filename": ONNX_EMBEDDINGS_FILE.rpartition("/")[2],
                            "inputs": ["input_ids"],
                            "outputs": ["inputs_embeds"],
                        },
                        "layers": {
                            "filename": onnx_decoder_file(arithmetic).rpartition("/")[2],
                            "inputs": ["inputs_embeds", "attention_mask", *pasts],
                            "outputs": ["hidden_states", *following],
                        },
                        "lm_head": {
                            "filename": onnx_head_file(arithmetic).rpartition("/")[2],
                            "inputs": ["hidden_states"],
                            "outputs": ["logits"],
                        },
                    }
                ],
            },
        },
        "search": {
            "do_sample": False,
            "max_length": decoder.max_position_embeddings,
            "past_present_share_buffer": True,
        },
    }
