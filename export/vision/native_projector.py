"""Writes the ovis_conv_adapter projector as a native tower's file (docs/valley2.md, "Projector")."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.config import ProjectorConfig, SiglipConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.tensor_names import CONV_SIDE, PROJECTOR_PREFIX
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_file import MatrixPlan, Part, Tensors, TowerPrecision, write_tower
from valley2_edge.export.vision.native_layers import norm_plan, norm_tensors, read_norm

NATIVE_PROJECTOR = "ovis_conv_adapter"
"""The type of projector that the native core computes."""


def write_native_projector(
    weights: Weights, config: ProjectorConfig, siglip: SiglipConfig, path: Path, precision: TowerPrecision
) -> None:
    """Writes the tower, which maps `features` (tiles, patches, channels) to `tokens` (tiles, side * side, hidden).

    None of it is int8, even when the towers are: scores go through an exponential, probabilities span many orders
    of magnitude, and the whole is a tenth of the tower before it.

    Args:
        weights: Reads the checkpoint.
        config: The projector's sizes.
        siglip: The sizes of the tower that makes the features.
        path: The file.
        precision: Precision of the matrices, fp32 or bf16.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: The projector is of another type, or a tensor is not finite.
        OSError: The file cannot be written.
    """
    if config.type != NATIVE_PROJECTOR:
        raise ExportError(f"There is no native projector of the type {config.type}.")
    settings = {**config.model_dump(), "patches_per_side": siglip.patches_per_side}
    write_tower(path, "projector", settings, projector_parts(weights, config, precision))


def projector_parts(weights: Weights, config: ProjectorConfig, precision: TowerPrecision) -> list[Part]:
    """Plans the parts of the tower's file, in their order.

    Args:
        weights: Reads the checkpoint.
        config: The sizes of the component.
        precision: Precision of the matrices, fp32 or bf16.
    """
    inputs, entries = config.input_size, config.mlp_hidden_dim
    convolution = MatrixPlan("convolution", precision, inputs, CONV_SIDE**2 * inputs, bias=True)
    scores = MatrixPlan("vocabulary", precision, entries, inputs, bias=False)
    mixture = MatrixPlan("mixture", precision, config.output_size, entries, bias=False)

    def make_convolution() -> Tensors:
        # (outputs, inputs, y, x) to (outputs, y, x, inputs): the channels of a place are neighbours
        kernel = weights.read(PROJECTOR_PREFIX + "conv.weight").permute(0, 2, 3, 1).reshape(inputs, -1)
        return convolution.pack(kernel, weights.read(PROJECTOR_PREFIX + "conv.bias"))

    def make_norm() -> Tensors:
        return norm_tensors("vocabulary_norm", read_norm(weights, PROJECTOR_PREFIX + "mlp.1"))

    return [
        Part(convolution.tensors(), [convolution], make_convolution),
        Part(scores.tensors(), [scores], lambda: scores.pack(weights.read(PROJECTOR_PREFIX + "mlp.0.weight"), None)),
        Part(norm_plan("vocabulary_norm", entries), [], make_norm),
        Part(
            mixture.tensors(),
            [mixture],
            lambda: mixture.pack(weights.read(PROJECTOR_PREFIX + "embedding.weight").t(), None),
        ),
    ]
