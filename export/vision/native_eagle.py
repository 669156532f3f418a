"""Writes the Eagle tower and its merger as a native tower's file (docs/valley2.md, "Eagle tower")."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.config import EagleConfig
from valley2_edge.export.checkpoint.tensor_names import EAGLE_PREFIX, PICTURE_CHANNELS
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_file import (
    MatrixPlan,
    Part,
    Tensors,
    precision_beside_int8,
    write_tower,
)
from valley2_edge.export.vision.native_layers import (
    LayerNames,
    LayerSource,
    layer_parts,
    norm_plan,
    norm_tensors,
    read_linear,
    read_norm,
)
from valley2_edge.precisions import VisionPrecision

_LAYER = LayerNames(norm1="norm1", qkv=("attn.qkv",), output="attn.proj", norm2="norm2", up="mlp.fc1", down="mlp.fc2")


def write_native_eagle(weights: Weights, config: EagleConfig, path: Path, precision: VisionPrecision) -> None:
    """Writes the tower.

    It maps `patches` (patches, 588) and `positions` (patches, 2) to `tokens` (patches / 4, hidden).

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
    write_tower(path, "eagle", config.model_dump(), eagle_parts(weights, config, precision))


def eagle_parts(weights: Weights, config: EagleConfig, precision: VisionPrecision) -> list[Part]:
    """Plans the parts of the tower's file, in their order.

    Args:
        weights: Reads the checkpoint.
        config: The sizes of the component.
        precision: Precision of the matrices.
    """
    parts = [_embedding(weights, config, precision)]
    for index in range(config.depth):
        source = LayerSource(weights, f"{EAGLE_PREFIX}blocks.{index}.", _LAYER)
        parts += layer_parts(index, source, config.embed_dim, config.mlp_ratio * config.embed_dim, precision)
    parts += _merger(weights, config, precision)
    return parts


def _embedding(weights: Weights, config: EagleConfig, precision: VisionPrecision) -> Part:
    """The patch embedding, never in int8: its inputs are 8-bit numbers already, and it is a twentieth of a layer.

    The temporal slices of a picture are equal, but a sum of their weights would have more digits than bf16 has.
    """
    columns = config.temporal_patch_size * PICTURE_CHANNELS * config.patch_size**2
    matrix = MatrixPlan("patch_embedding", precision_beside_int8(precision), config.embed_dim, columns, bias=False)

    def make() -> Tensors:
        # (embed, 3, temporal, y, x) to (embed, temporal, 3 * y * x)
        kernel = weights.read(EAGLE_PREFIX + "patch_embed.proj.weight").transpose(1, 2)
        return matrix.pack(kernel.reshape(matrix.outputs, matrix.columns), None)

    return Part(matrix.tensors(), [matrix], make)


def _merger(weights: Weights, config: EagleConfig, precision: VisionPrecision) -> list[Part]:
    source, merged = EAGLE_PREFIX + "merger.", config.embed_dim * config.spatial_merge_size**2
    inner = MatrixPlan("merger.inner", precision, merged, merged, bias=True)
    outer = MatrixPlan("merger.outer", precision, config.hidden_size, merged, bias=True)

    def matrix_part(matrix: MatrixPlan, name: str) -> Part:
        def make() -> Tensors:
            linear = read_linear(weights, source + name)
            return matrix.pack(linear.weight, linear.bias)

        return Part(matrix.tensors(), [matrix], make)

    return [
        Part(
            norm_plan("merger.norm", config.embed_dim),
            [],
            lambda: norm_tensors("merger.norm", read_norm(weights, source + "ln_q")),
        ),
        matrix_part(inner, "mlp.0"),
        matrix_part(outer, "mlp.2"),
    ]
