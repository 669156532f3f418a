"""What must be computed at least, by arithmetic: the work that a measured time is held against.

A multiplication with its addition counts as two operations. Softmax, norms and activation functions are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from valley2_edge.config import DecoderConfig, EagleConfig, ProjectorConfig, SiglipConfig

_CONVOLUTION_TAPS = 9
_COLORS = 3


@dataclass(frozen=True)
class MatrixSize:
    """One matrix of the decoder."""

    name: str
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        """Number of weights of the matrix."""
        return self.rows * self.columns


def layer_matrices(config: DecoderConfig, index: int) -> list[MatrixSize]:
    """The matrices of one layer in the order of computation: qkv, output, gate_up, down."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    query_rows = config.num_attention_heads * config.head_size
    kv_rows = config.num_key_value_heads * config.head_size
    prefix = f"layers.{index}."
    return [
        MatrixSize(prefix + "attention.qkv", query_rows + 2 * kv_rows, hidden),
        MatrixSize(prefix + "attention.output", hidden, query_rows),
        MatrixSize(prefix + "mlp.gate_up", 2 * intermediate, hidden),
        MatrixSize(prefix + "mlp.down", hidden, intermediate),
    ]


def prefill_operations(config: DecoderConfig, positions: int) -> int:
    """Operations of the matrix products of a prefill whose last position alone needs logits.

    In the last layer only keys and values matter of the other positions, so the rest of that layer, and lm_head, is
    counted for one position. Attention itself is left out: it is no product with weights.
    """
    qkv, *rest = (matrix.weights for matrix in layer_matrices(config, 0))
    everywhere = config.num_hidden_layers * qkv + (config.num_hidden_layers - 1) * sum(rest)
    once = sum(rest) + config.vocab_size * config.hidden_size
    return 2 * (positions * everywhere + once)


def siglip_operations(config: SiglipConfig) -> int:
    """Operations of the SigLIP tower for one tile."""
    patches, channels = config.patches_per_side**2, config.hidden_size
    embedding = patches * _COLORS * config.patch_size**2 * channels
    layer = patches * channels * (4 * channels + 2 * config.intermediate_size) + 2 * patches**2 * channels
    return 2 * (embedding + config.num_hidden_layers * layer)


def projector_operations(config: ProjectorConfig, siglip: SiglipConfig) -> int:
    """Operations of the projector for one tile."""
    tokens, patches = config.tokens_per_side**2, siglip.patches_per_side**2
    inputs, middle, outputs = config.input_size, config.mlp_hidden_dim, config.output_size
    if config.type == "ovis_conv_adapter":
        mixture = middle * outputs if config.tokenize_function == "softmax" else 0
        return 2 * tokens * (_CONVOLUTION_TAPS * inputs**2 + inputs * middle + mixture)
    if config.type == "conv_adapter":
        return 2 * (patches * (inputs + outputs) * middle + tokens * _CONVOLUTION_TAPS * outputs**2)
    joined = config.pixelshuffle_downsample_ratio**2 * inputs
    return 2 * tokens * (joined + outputs) * middle


def eagle_operations(config: EagleConfig, patches: int) -> int:
    """Operations of the Eagle branch for one picture with this many patches."""
    channels, merged = config.embed_dim, config.spatial_merge_size**2
    # The two equal temporal slices are one product.
    embedding = patches * _COLORS * config.patch_size**2 * channels
    layer = patches * (4 + 2 * config.mlp_ratio) * channels**2 + 2 * patches**2 * channels
    joined = merged * channels
    merger = patches // merged * joined * (joined + config.hidden_size)
    return 2 * (embedding + config.depth * layer + merger)
