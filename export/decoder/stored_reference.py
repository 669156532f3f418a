"""What a bundle's decoder computes: its own dequantised weights in torch's float32 arithmetic, one layer in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import BundleError, NumericError
from valley2_edge.export.decoder.layout import DECODER_FILE, EMBEDDINGS_FILE, EMBEDDINGS_TENSOR, FINAL_NORM, LM_HEAD
from valley2_edge.outside_files import parse_json
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.packing import PANEL, panel_count, unpack_floats, unpack_groups, unpack_int4, unpack_int8
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows

_LM_HEAD_PANELS = 64


class StoredDecoder:
    """Reads the decoder's files back; every read opens the file anew, so that no mapping of it stays in memory.

    Args:
        directory: The bundle, finished or being made.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / DECODER_FILE
        self._embeddings = directory / EMBEDDINGS_FILE
        try:
            with safe_open(self._path, "pt") as reader:
                metadata = reader.metadata() or {}
            texts = metadata["matrices"], metadata["config"]
            self._matrices, config = (parse_json(text, str(self._path), BundleError) for text in texts)
            config.pop("head_size")
            self.config = DecoderConfig(**config)
        except (OSError, SafetensorError, KeyError, AttributeError, TypeError, ValidationError) as error:
            raise BundleError(f"{self._path} does not describe a decoder: export the bundle again") from error

    def tensor(self, name: str) -> torch.Tensor:
        """A norm or a bias, float32."""
        with safe_open(self._path, "pt") as reader:
            tensor: torch.Tensor = reader.get_tensor(name)
            return tensor.clone()

    def rows(self, name: str) -> int:
        """Rows of a matrix, without padding."""
        return int(self._matrices[name]["rows"])

    def format(self, name: str) -> MatrixFormat:
        """How a matrix is stored."""
        facts = self._matrices[name]
        code = facts.get("code", "uniform")
        return MatrixFormat(facts["precision"], facts["group_size"] or 128, facts["symmetric"], code)

    def matrix(self, name: str, first_panel: int = 0, last_panel: int | None = None) -> torch.Tensor:
        """The weights that a stored matrix stands for.

        Args:
            name: The matrix.
            first_panel: First panel of 64 rows.
            last_panel: Panel to stop before; None: all.

        Returns:
            (rows, columns) float32.
        """
        facts = self._matrices[name]
        panel_total = panel_count(facts["rows"])
        last_panel = panel_total if last_panel is None else min(last_panel, panel_total)
        rows = min(facts["rows"], last_panel * PANEL) - first_panel * PANEL
        with safe_open(self._path, "pt") as reader:

            def read(part: str) -> torch.Tensor:
                panels: torch.Tensor = reader.get_slice(f"{name}.{part}")[first_panel:last_panel]
                return panels

            weight = read("weight")
            if facts["precision"] in ("fp32", "fp16"):
                return unpack_floats(weight, rows).to(torch.float32).contiguous()
            matrix_format = self.format(name)
            unpack = unpack_int4 if facts["precision"] == "int4" else unpack_int8
            zeros = unpack_groups(read("zeros"), rows) if matrix_format.has_zeros else None
            stored = QuantizedRows(unpack(weight, rows), unpack_groups(read("scales"), rows), zeros)
            return dequantize_rows(stored, matrix_format)

    def embed(self, tokens: list[int]) -> torch.Tensor:
        """Rows of the embedding table: (tokens, hidden_size) float32."""
        with safe_open(self._embeddings, "pt") as reader:
            table = reader.get_slice(EMBEDDINGS_TENSOR)
            return torch.cat([table[token : token + 1] for token in tokens]).to(torch.float32)


def reference_logits(
    decoder: StoredDecoder,
    embeddings: torch.Tensor,
    logit_rows: int,
    on_layer: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Logits of a prompt's last positions, computed by transformers' Qwen2 layers.

    Args:
        decoder: The bundle's decoder.
        embeddings: (length, hidden_size) float32, text and vision mixed.
        logit_rows: How many of the last positions.
        on_layer: Called with the layers done and the layers in all.

    Returns:
        (logit_rows, vocab_size) float32.

    Raises:
        NumericError: A layer's output is not finite; the text names it.
    """
    config = _qwen2_config(decoder.config)
    length = embeddings.shape[0]
    positions = torch.arange(length)[None]  # (1, length)
    # Additive causal mask, (1, 1, length, length).
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    hidden = embeddings[None]  # (1, length, hidden_size)
    with torch.inference_mode():
        rotary = Qwen2RotaryEmbedding(config)(hidden, positions)
        for index in range(config.num_hidden_layers):
            layer = _load_layer(decoder, config, index)
            output = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
            hidden = output[0] if isinstance(output, tuple) else output
            if not torch.isfinite(hidden).all():
                raise NumericError(f"layer {index} of the reference decoder computed a NaN or an infinity")
            if on_layer is not None:
                on_layer(index + 1, config.num_hidden_layers)
        norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        norm.load_state_dict({"weight": decoder.tensor(FINAL_NORM)})
        last = norm(hidden[0, -logit_rows:])  # (logit_rows, hidden_size)
        panels = panel_count(decoder.rows(LM_HEAD))
        blocks = [
            last @ decoder.matrix(LM_HEAD, first, first + _LM_HEAD_PANELS).T
            for first in range(0, panels, _LM_HEAD_PANELS)
        ]
    return torch.cat(blocks, dim=1)


def _qwen2_config(config: DecoderConfig) -> Qwen2Config:
    qwen2 = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    qwen2._attn_implementation = "eager"  # takes an additive mask as it is
    return qwen2


def _load_layer(decoder: StoredDecoder, config: Qwen2Config, index: int) -> Qwen2DecoderLayer:
    ours = f"layers.{index}"
    kv_rows = decoder.config.num_key_value_heads * decoder.config.head_size
    sizes = [decoder.config.hidden_size, kv_rows, kv_rows]
    weights = torch.split(decoder.matrix(f"{ours}.attention.qkv"), sizes)
    biases = torch.split(decoder.tensor(f"{ours}.attention.qkv.bias"), sizes)
    gate, up = torch.split(decoder.matrix(f"{ours}.mlp.gate_up"), decoder.config.intermediate_size)
    state = {
        "self_attn.o_proj.weight": decoder.matrix(f"{ours}.attention.output"),
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": decoder.matrix(f"{ours}.mlp.down"),
        "input_layernorm.weight": decoder.tensor(f"{ours}.input_norm"),
        "post_attention_layernorm.weight": decoder.tensor(f"{ours}.post_attention_norm"),
    }
    for letter, weight, bias in zip("qkv", weights, biases, strict=True):
        state[f"self_attn.{letter}_proj.weight"] = weight
        state[f"self_attn.{letter}_proj.bias"] = bias
    with torch.device("meta"):  # no memory for weights that are replaced at once
        layer = Qwen2DecoderLayer(config, index)
    layer.load_state_dict(state, assign=True)
    return layer.eval()
