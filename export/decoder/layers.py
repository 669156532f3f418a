"""Runs the unrounded decoder of a checkpoint over packs of samples, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from valley2_edge.calibration.activations import Activations
from valley2_edge.calibration.decoder_block import attend, gate, rms_norm
from valley2_edge.calibration.packs import Pack
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import NumericError
from valley2_edge.export.decoder.parts import LM_HEAD, DecoderMatrix, DecoderNorm, decoder_parts

MLP_ROWS = 512
"""Rows that go through the feed-forward network at a time: its intermediate values are the largest in memory."""


class Tensors(Protocol):
    """Reads tensors by name, as a checkpoint does."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in its stored dtype."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """The rows from `start` up to `stop` of a tensor in its stored dtype."""


@dataclass(frozen=True)
class LayerParts:
    """The parts of one layer."""

    input_norm: DecoderNorm
    qkv: DecoderMatrix
    output: DecoderMatrix
    post_attention_norm: DecoderNorm
    gate_up: DecoderMatrix
    down: DecoderMatrix

    @property
    def matrices(self) -> tuple[DecoderMatrix, ...]:
        """The matrices in the order of computation."""
        return self.qkv, self.output, self.gate_up, self.down

    @property
    def weight_count(self) -> int:
        """Number of weights of the layer's matrices."""
        return sum(matrix.rows * matrix.columns for matrix in self.matrices)


@dataclass(frozen=True)
class HeadParts:
    """The parts after the last layer."""

    norm: DecoderNorm
    lm_head: DecoderMatrix


def split_parts(config: DecoderConfig) -> tuple[list[LayerParts], HeadParts]:
    """The decoder's parts by layer, and the parts after the last layer.

    Args:
        config: The decoder's sizes.
    """
    parts = {part.name: part for part in decoder_parts(config)}

    def matrix(name: str) -> DecoderMatrix:
        part = parts[name]
        if not isinstance(part, DecoderMatrix):
            raise TypeError(f"{name} is no matrix")
        return part

    def norm(name: str) -> DecoderNorm:
        part = parts[name]
        if not isinstance(part, DecoderNorm):
            raise TypeError(f"{name} is no norm")
        return part

    layers = [
        LayerParts(
            norm(f"layers.{index}.input_norm"),
            matrix(f"layers.{index}.attention.qkv"),
            matrix(f"layers.{index}.attention.output"),
            norm(f"layers.{index}.post_attention_norm"),
            matrix(f"layers.{index}.mlp.gate_up"),
            matrix(f"layers.{index}.mlp.down"),
        )
        for index in range(config.num_hidden_layers)
    ]
    return layers, HeadParts(norm("norm"), matrix(LM_HEAD))


def stacked_rows(source: Tensors, matrix: DecoderMatrix, first: int, last: int) -> torch.Tensor:
    """Reads rows of a matrix whose weights are several tensors of the checkpoint.

    Args:
        source: Reads the tensors.
        matrix: The matrix.
        first: The first row.
        last: The row behind the last one.

    Returns:
        (last - first, columns) float32.
    """
    pieces = []
    start = 0
    for name in matrix.weights:
        stop = start + source.shape(name)[0]
        if start < last and stop > first:
            pieces.append(source.rows(name, max(first, start) - start, min(last, stop) - start).to(torch.float32))
        start = stop
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def row_blocks(source: Tensors, matrix: DecoderMatrix, block_rows: int) -> Iterator[torch.Tensor]:
    """Reads a matrix block by block.

    Args:
        source: Reads the tensors.
        matrix: The matrix.
        block_rows: Largest number of rows in a block.

    Yields:
        The blocks in order, (rows, columns) float32.
    """
    for first in range(0, matrix.rows, block_rows):
        yield stacked_rows(source, matrix, first, min(first + block_rows, matrix.rows))


def biases(source: Tensors, matrix: DecoderMatrix) -> torch.Tensor | None:
    """Reads the bias of a matrix.

    Args:
        source: Reads the tensors.
        matrix: The matrix.

    Returns:
        (rows,) float32, or None for a matrix without a bias.
    """
    if not matrix.biases:
        return None
    return torch.cat([source.tensor(name).to(torch.float32) for name in matrix.biases])


def norm_weight(source: Tensors, norm: DecoderNorm) -> torch.Tensor:
    """Reads the weight of a norm.

    Args:
        source: Reads the tensors.
        norm: The norm.

    Returns:
        (hidden,) float32.
    """
    return source.tensor(norm.weight).to(torch.float32)


def gated_rows(hidden: torch.Tensor, norm: torch.Tensor, gate_up: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Computes the input of down for up to `MLP_ROWS` rows.

    Args:
        hidden: The input of the second half of a layer, (rows, hidden) float32.
        norm: Weight of the RMSNorm, (hidden,) float32.
        gate_up: (2 * intermediate, hidden) float32, the gate first.
        epsilon: Epsilon of the RMSNorm.

    Returns:
        (rows, intermediate) float32.
    """
    return gate(rms_norm(hidden, norm, epsilon) @ gate_up.T)


def add_down(hidden: torch.Tensor, gated: Iterable[torch.Tensor], down: torch.Tensor) -> torch.Tensor:
    """Computes the output of a layer from the inputs of down.

    Args:
        hidden: The input of the second half of the layer, (rows, hidden) float32.
        gated: The inputs of down in blocks of rows, (any, intermediate) float32.
        down: (hidden, intermediate) float32.

    Returns:
        (rows, hidden) float32.
    """
    result = torch.empty_like(hidden)
    start = 0
    for block in gated:
        stop = start + len(block)
        result[start:stop] = hidden[start:stop] + block @ down.T
        start = stop
    return result


def feed_forward(
    hidden: torch.Tensor, norm: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Computes the second half of a layer, including the sum with its input.

    Args:
        hidden: The input, (rows, hidden) float32.
        norm: Weight of the RMSNorm, (hidden,) float32.
        gate_up: (2 * intermediate, hidden) float32, the gate first.
        down: (hidden, intermediate) float32.
        epsilon: Epsilon of the RMSNorm.

    Returns:
        (rows, hidden) float32.
    """
    blocks = torch.split(hidden, MLP_ROWS)
    return add_down(hidden, (gated_rows(rows, norm, gate_up, epsilon) for rows in blocks), down)


@dataclass(frozen=True)
class LayerWeights:
    """The unrounded weights of one layer, in float32."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    output: torch.Tensor
    post_attention_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor

    @classmethod
    def read(cls, source: Tensors, parts: LayerParts, device: torch.device) -> LayerWeights:
        """Reads a layer.

        Args:
            source: Reads the tensors.
            parts: The layer.
            device: Where the weights are put.
        """
        bias = biases(source, parts.qkv)
        qkv, output, gate_up, down = (
            stacked_rows(source, matrix, 0, matrix.rows).to(device) for matrix in parts.matrices
        )
        return cls(
            norm_weight(source, parts.input_norm).to(device),
            qkv,
            None if bias is None else bias.to(device),
            output,
            norm_weight(source, parts.post_attention_norm).to(device),
            gate_up,
            down,
        )

    def attend(self, hidden: torch.Tensor, pack: Pack, config: DecoderConfig) -> torch.Tensor:
        """Computes what enters the matrix `output`.

        Args:
            hidden: The layer's input, (rows, hidden) float32.
            pack: Where samples and branches lie.
            config: The decoder's sizes.

        Returns:
            (rows, q_rows) float32.
        """
        mixed = rms_norm(hidden, self.input_norm, config.rms_norm_eps) @ self.qkv.T
        if self.qkv_bias is not None:
            mixed += self.qkv_bias
        return attend(mixed, pack, config)


def check_finite(hidden: torch.Tensor, layer: int, what: str) -> None:
    """Checks the output of a layer.

    Args:
        hidden: The output, of any shape.
        layer: Number of the layer, for the message.
        what: What the layer was computing, for the message.

    Raises:
        NumericError: The output holds a NaN or an infinity; the message names the layer.
    """
    if not bool(torch.isfinite(hidden).all()):
        raise NumericError(f"layer {layer} computed a NaN or an infinity in {what}")


def run_unrounded(
    source: Tensors,
    config: DecoderConfig,
    packs: Sequence[Pack],
    activations: Activations,
    device: torch.device,
    on_layer: Callable[[int, int], None],
) -> None:
    """Runs the unrounded layers over packs, one layer in memory at a time.

    Args:
        source: Reads the weights.
        config: The decoder's sizes.
        packs: The samples.
        activations: Holds the embeddings of the packs at first, and the output of the last layer, before the final
            norm, when this returns.
        device: The device that computes.
        on_layer: Called with the number of finished layers and the number of all layers.

    Raises:
        NumericError: A layer computed a NaN or an infinity; the message names it.
    """
    layers, _ = split_parts(config)
    for index, parts in enumerate(layers):
        weights = LayerWeights.read(source, parts, device)
        for number, pack in enumerate(packs):
            hidden = activations.read(number).to(device)  # (rows, hidden)
            hidden = hidden + weights.attend(hidden, pack, config) @ weights.output.T
            hidden = feed_forward(
                hidden, weights.post_attention_norm, weights.gate_up, weights.down, config.rms_norm_eps
            )
            check_finite(hidden, index, "the unrounded decoder")
            activations.write(number, hidden.cpu())
        on_layer(index + 1, len(layers))
