"""Reads a checkpoint in another basis of the residual stream: other tensors, the same function.

The basis is that of valley2_edge/rotation.py, which names the papers.

Whatever reads the residual stream is multiplied with R from the right, after the gain of the norm before it was folded
into its columns; whatever writes it is multiplied with the transpose of R from the left; the rows of embedding tables
are vectors of it. Values of a kv head, and the columns of `o_proj` that take them, are turned by a matrix of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from valley2_edge.config import DecoderConfig, ModelConfig, ProjectorConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import EAGLE_PREFIX, EMBEDDINGS, OUTPUT_WEIGHT, PROJECTOR_PREFIX
from valley2_edge.rotation import Rotation

_BLOCK = 256  # vectors that are turned at a time
_FINAL_NORM = "model.norm.weight"

_Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Change:
    """What becomes of one tensor."""

    kind: Literal["gain", "rows", "columns", "values"]
    """gain: all ones. rows: every row is multiplied with R, or the tensor itself where it has one axis. columns: every
    column is. values: the rows of `v_proj`, or its bias, are values of the heads."""
    source: str
    """The tensor of the checkpoint."""
    norm: str | None = None
    """The gain that is folded into the columns before."""
    heads: bool = False
    """Whether the columns are what query heads make of values."""


class RotatedCheckpoint(Checkpoint):
    """A checkpoint whose tensors are those of the rotated model; computed in float64 and rounded to float32.

    Embeddings of 16 bits become fp16, whose rounding is eight times finer than that of bf16. The output matrix is a
    tensor of its own also where the checkpoint ties it to the embeddings, because the final norm's gain is folded into
    it.

    Args:
        checkpoint: The checkpoint as it is; its files are opened anew here.
        rotation: The rotation.
    """

    def __init__(self, checkpoint: Checkpoint, rotation: Rotation) -> None:
        given = checkpoint.config
        untied = given.decoder.model_copy(update={"tie_word_embeddings": False})
        config = given.model_copy(update={"decoder": untied})
        super().__init__(checkpoint.path, config, checkpoint._tensors, checkpoint.unused)
        self.cancel = checkpoint.cancel
        self.rotation = rotation
        self._changes = _changes(given)
        self._gains: dict[str, _Doubles] = {}
        self._whole: tuple[str, torch.Tensor] | None = None

    def close(self) -> None:
        """Closes the shards; a later read opens them again."""
        self._whole = None
        super().close()

    def __contains__(self, name: str) -> bool:
        return name in self._changes or super().__contains__(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header.

        Raises:
            CheckpointError: There is no such tensor.
        """
        return super().shape(self._source(name))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which `tensor` and `rows` return a tensor.

        Raises:
            CheckpointError: There is no such tensor.
        """
        stored = super().dtype(self._source(name))
        if name == EMBEDDINGS and stored != torch.float32:
            return torch.float16
        return torch.float32 if name in self._changes else stored

    def tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor of the rotated model.

        Args:
            name: The tensor's name.

        Raises:
            CheckpointError: There is no such tensor, the file has changed since it was opened, or an embedding is too
                large for fp16.
            Cancelled: `cancel` was set.
        """
        if name not in self._changes:
            return super().tensor(name)
        change = self._changes[name]
        if change.kind == "gain":
            return torch.ones(self.shape(name), dtype=torch.float32)
        if change.kind == "values":
            return self._values(change)
        if change.kind == "columns":
            return self._columns(change)
        if len(self.shape(name)) == 1:
            return _rounded(self.rotation.turn(_doubles(super().tensor(change.source))), torch.float32)
        return self._rows(name, change, 0, self.shape(name)[0])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads some rows of a tensor of the rotated model.

        Every row of a matrix that writes the residual stream depends on all rows: the matrix is turned as a whole, and
        kept in float32 until its last row or another one is read.

        Args:
            name: The tensor's name.
            start: The first row.
            stop: The row behind the last one.

        Raises:
            CheckpointError: There is no such tensor, it has no such rows, the file has changed, or an embedding is too
                large for fp16.
            Cancelled: `cancel` was set.
        """
        if name not in self._changes:
            return super().rows(name, start, stop)
        shape, change = self.shape(name), self._changes[name]
        if not 0 <= start <= stop <= shape[0]:
            raise CheckpointError(f"The tensor {name} of shape {list(shape)} has no rows {start}..{stop}.")
        if change.kind == "rows" and len(shape) > 1:
            return self._rows(name, change, start, stop)
        whole = self._whole[1] if self._whole is not None and self._whole[0] == name else self.tensor(name)
        last = stop == shape[0]
        self._whole = None if last else (name, whole)
        return whole if last and start == 0 else whole[start:stop].clone()

    def fingerprint(self) -> str:
        """The checkpoint's own fingerprint and the rotation."""
        return f"{super().fingerprint()} {self.rotation}"

    def _source(self, name: str) -> str:
        return self._changes[name].source if name in self._changes else name

    def _rows(self, name: str, change: _Change, start: int, stop: int) -> torch.Tensor:
        dtype = self.dtype(name)
        turned = torch.empty((stop - start, *self.shape(name)[1:]), dtype=dtype)
        gain = None if change.norm is None else self._gain(change.norm)
        for first in range(start, stop, _BLOCK):
            last = min(first + _BLOCK, stop)
            block = _doubles(super().rows(change.source, first, last))
            if gain is not None:
                block *= gain
            turned[first - start : last - start] = _rounded(self.rotation.turn(block), dtype)
        if dtype == torch.float16 and bool(torch.isinf(turned).any()):
            raise CheckpointError(f"{name} has values too large for fp16 once rotated: export with --rotation none.")
        return turned

    def _columns(self, change: _Change) -> torch.Tensor:
        """A matrix (hidden, ...) that writes the residual stream."""
        stored = super().tensor(change.source)
        shape, matrix = stored.shape, stored.reshape(len(stored), -1)  # (hidden, columns)
        del stored
        if change.heads:
            matrix = self._turn_heads(matrix)
        turned = torch.empty(matrix.shape, dtype=torch.float32)
        for first in range(0, matrix.shape[1], _BLOCK):
            self.cancel.check()
            block = _doubles(matrix[:, first : first + _BLOCK])
            turned[:, first : first + _BLOCK] = _rounded(self.rotation.turn(block.T).T, torch.float32)
        return turned.reshape(shape)

    def _turn_heads(self, matrix: torch.Tensor) -> torch.Tensor:
        """`o_proj` with columns for turned values; float64."""
        config = self.config.decoder
        sharing = config.num_attention_heads // config.num_key_value_heads
        turned = torch.empty(matrix.shape, dtype=torch.float64)
        for first in range(0, len(matrix), _BLOCK):
            block = _doubles(matrix[first : first + _BLOCK])
            turned[first : first + _BLOCK] = torch.from_numpy(
                self.rotation.turn_values(block, config.head_size, sharing)
            )
        return turned

    def _values(self, change: _Change) -> torch.Tensor:
        """`v_proj`: its rows, or its bias, are values; the weight reads the residual stream as well."""
        stored = _doubles(super().tensor(change.source))
        if change.norm is not None:
            stored = self.rotation.turn(stored * self._gain(change.norm))
        turned = self.rotation.turn_values(stored.T, self.config.decoder.head_size).T
        return _rounded(turned, torch.float32)

    def _gain(self, norm: str) -> _Doubles:
        if norm not in self._gains:
            self._gains[norm] = _doubles(super().tensor(norm))
        return self._gains[norm]


def _changes(config: ModelConfig) -> dict[str, _Change]:
    """What becomes of the tensors that are not as they were."""
    changes = _decoder_changes(config.decoder) | _projector_changes(config.projector)
    if config.eagle is not None:
        changes |= _linear_changes(EAGLE_PREFIX + "merger.mlp.2")
    return changes


def _decoder_changes(config: DecoderConfig) -> dict[str, _Change]:
    changes = {EMBEDDINGS: _Change("rows", EMBEDDINGS)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}."
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        norms = [f"{layer}{name}_layernorm.weight" for name in ("input", "post_attention")]
        readers = [(f"{attention}{letter}_proj.weight", norms[0]) for letter in "qk"]
        readers += [(f"{mlp}{name}_proj.weight", norms[1]) for name in ("gate", "up")]
        changes |= {name: _Change("gain", name) for name in norms}
        changes |= {name: _Change("rows", name, norm) for name, norm in readers}
        value, output, down = f"{attention}v_proj", f"{attention}o_proj.weight", f"{mlp}down_proj.weight"
        changes[f"{value}.weight"] = _Change("values", f"{value}.weight", norms[0])
        changes[f"{value}.bias"] = _Change("values", f"{value}.bias")
        changes[output] = _Change("columns", output, heads=True)
        changes[down] = _Change("columns", down)
    changes[_FINAL_NORM] = _Change("gain", _FINAL_NORM)
    head = EMBEDDINGS if config.tie_word_embeddings else OUTPUT_WEIGHT
    changes[OUTPUT_WEIGHT] = _Change("rows", head, _FINAL_NORM)
    return changes


def _projector_changes(config: ProjectorConfig) -> dict[str, _Change]:
    """The part of the projector that makes tokens (docs/valley2.md, "Projector")."""
    if config.type == "ovis_conv_adapter":
        name = PROJECTOR_PREFIX + "embedding.weight"
        return {name: _Change("rows", name)}
    return _linear_changes(PROJECTOR_PREFIX + ("conv" if config.type == "conv_adapter" else "mlp.2"))


def _linear_changes(name: str) -> dict[str, _Change]:
    """A layer with a bias whose outputs are vectors of the residual stream."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    return {weight: _Change("columns", weight), bias: _Change("rows", bias)}


def _doubles(tensor: torch.Tensor) -> _Doubles:
    values: _Doubles = tensor.to(torch.float64).numpy()
    return values


def _rounded(values: _Doubles, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
