"""Writes the SigLIP tower as a native tower's file (docs/valley2.md, "SigLIP")."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.config import SiglipConfig
from valley2_edge.export.checkpoint.tensor_names import PICTURE_CHANNELS, SIGLIP_PREFIX
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_file import (
    MatrixPlan,
    Part,
    Tensors,
    padded_vector,
    precision_beside_int8,
    vector_plan,
    write_tower,
)
from valley2_edge.export.vision.native_layers import (
    LayerNames,
    LayerSource,
    layer_parts,
    norm_plan,
    norm_tensors,
    read_norm,
)
from valley2_edge.precisions import VisionPrecision

_LAYER = LayerNames(
    norm1="layer_norm1",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    output="self_attn.out_proj",
    norm2="layer_norm2",
    up="mlp.fc1",
    down="mlp.fc2",
)


def write_native_siglip(weights: Weights, config: SiglipConfig, path: Path, precision: VisionPrecision) -> None:
    """Writes the tower, which maps `tiles` (tiles, 3, image, image) to `features` (tiles, patches, hidden).

    Args:
        weights: Reads the checkpoint.
        config: The tower's sizes.
        path: The file.
        precision: Precision of the matrices.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: A tensor is not finite.
        OSError: The file cannot be written.
    """
    write_tower(path, "siglip", config.model_dump(), siglip_parts(weights, config, precision))


def siglip_parts(weights: Weights, config: SiglipConfig, precision: VisionPrecision) -> list[Part]:
    """Plans the parts of the tower's file, in their order.

    Args:
        weights: Reads the checkpoint.
        config: The sizes of the component.
        precision: Precision of the matrices.
    """
    parts = [_embeddings(weights, config, precision)]
    for index in range(config.num_hidden_layers):
        source = LayerSource(weights, f"{SIGLIP_PREFIX}encoder.layers.{index}.", _LAYER)
        parts += layer_parts(index, source, config.hidden_size, config.intermediate_size, precision)
    parts.append(
        Part(
            norm_plan("post_norm", config.hidden_size),
            [],
            lambda: norm_tensors("post_norm", read_norm(weights, SIGLIP_PREFIX + "post_layernorm")),
        )
    )
    return parts


def _embeddings(weights: Weights, config: SiglipConfig, precision: VisionPrecision) -> Part:
    """The patch embedding, never in int8: its inputs are 8-bit numbers already, and it is a twentieth of a layer."""
    columns, patches = PICTURE_CHANNELS * config.patch_size**2, config.patches_per_side**2
    stored = precision_beside_int8(precision)
    matrix = MatrixPlan("patch_embedding", stored, config.hidden_size, columns, bias=True)
    positions = "position_embedding"

    def make() -> Tensors:
        source = SIGLIP_PREFIX + "embeddings."
        kernel = weights.read(source + "patch_embedding.weight").reshape(config.hidden_size, columns)
        return matrix.pack(kernel, weights.read(source + "patch_embedding.bias")) | {
            positions: padded_vector(positions, weights.read(source + "position_embedding.weight"))
        }

    return Part([*matrix.tensors(), vector_plan(positions, patches, config.hidden_size)], [matrix], make)
