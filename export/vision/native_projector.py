"""Writes the three kinds of projector as a native tower's file (docs/valley2.md, "Projector")."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.config import ProjectorConfig, SiglipConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.tensor_names import CONV_SIDE, PROJECTOR_PREFIX
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_file import MatrixPlan, Part, Tensors, write_tower
from valley2_edge.export.vision.native_layers import norm_plan, norm_tensors, read_norm
from valley2_edge.precisions import VisionPrecision


def write_native_projector(
    weights: Weights, config: ProjectorConfig, siglip: SiglipConfig, path: Path, precision: VisionPrecision
) -> None:
    """Writes the tower, which maps `features` (tiles, patches, channels) to `tokens` (tiles, side * side, hidden).

    Beside towers in int8 it is bf16: scores go through an exponential, probabilities span many orders of magnitude,
    and the whole is a tenth of the tower before it.

    Args:
        weights: Reads the checkpoint.
        config: The projector's sizes.
        siglip: The sizes of the tower that makes the features.
        path: The file.
        precision: bf16 or fp32.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: The precision is int8, or a tensor is not finite.
        OSError: The file cannot be written.
    """
    if precision == "int8":
        raise ExportError("A native projector is bf16 or fp32, not int8.")
    settings = {**config.model_dump(), "patches_per_side": siglip.patches_per_side}
    write_tower(path, "projector", settings, projector_parts(weights, config, precision))


def projector_parts(weights: Weights, config: ProjectorConfig, precision: VisionPrecision) -> list[Part]:
    """Plans the parts of the tower's file, in their order.

    Args:
        weights: Reads the checkpoint.
        config: The sizes of the component.
        precision: bf16 or fp32.
    """
    inputs, outputs = config.input_size, config.output_size
    if config.type == "ovis_conv_adapter":
        # A choice is all or nothing: scores that differ by the rounding of bf16 would choose another entry.
        scores: VisionPrecision = "fp32" if config.tokenize_function == "st_argmax" else precision
        return [_convolution(weights, inputs, scores), *_vocabulary(weights, config, scores, precision)]
    if config.type == "conv_adapter":
        return [*_mlp(weights, config, inputs, precision), _convolution(weights, outputs, precision)]
    return _mlp(weights, config, inputs * config.pixelshuffle_downsample_ratio**2, precision)


def _convolution(weights: Weights, channels: int, precision: VisionPrecision) -> Part:
    plan = MatrixPlan("convolution", precision, channels, CONV_SIDE**2 * channels, bias=True)

    def make() -> Tensors:
        # (outputs, inputs, y, x) to (outputs, y, x, inputs): the channels of a place are neighbours
        kernel = weights.read(PROJECTOR_PREFIX + "conv.weight").permute(0, 2, 3, 1).reshape(channels, -1)
        return plan.pack(kernel, weights.read(PROJECTOR_PREFIX + "conv.bias"))

    return Part(plan.tensors(), [plan], make)


def _vocabulary(
    weights: Weights, config: ProjectorConfig, scores_precision: VisionPrecision, precision: VisionPrecision
) -> list[Part]:
    entries = config.mlp_hidden_dim
    scores = MatrixPlan("vocabulary", scores_precision, entries, config.input_size, bias=False)
    mixture = MatrixPlan("mixture", precision, config.output_size, entries, bias=False)

    def make_norm() -> Tensors:
        return norm_tensors("vocabulary_norm", read_norm(weights, PROJECTOR_PREFIX + "mlp.1"))

    def make_mixture() -> Tensors:
        return mixture.pack(weights.read(PROJECTOR_PREFIX + "embedding.weight").t(), None)

    return [
        Part(scores.tensors(), [scores], lambda: scores.pack(weights.read(PROJECTOR_PREFIX + "mlp.0.weight"), None)),
        Part(norm_plan("vocabulary_norm", entries), [], make_norm),
        Part(mixture.tensors(), [mixture], make_mixture),
    ]


def _mlp(weights: Weights, config: ProjectorConfig, inputs: int, precision: VisionPrecision) -> list[Part]:
    middle = config.mlp_hidden_dim
    return [
        _linear(weights, MatrixPlan("inner", precision, middle, inputs, bias=True), "mlp.0"),
        _linear(weights, MatrixPlan("outer", precision, config.output_size, middle, bias=True), "mlp.2"),
    ]


def _linear(weights: Weights, plan: MatrixPlan, source: str) -> Part:
    def make() -> Tensors:
        name = PROJECTOR_PREFIX + source
        return plan.pack(weights.read(f"{name}.weight"), weights.read(f"{name}.bias"))

    return Part(plan.tensors(), [plan], make)
