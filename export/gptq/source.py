"""Reads the decoder of a GPTQ checkpoint that another tool may have made (docs/interchange.md)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.export.checkpoint.checkpoint import TORCH_DTYPES
from valley2_edge.export.checkpoint.tensor_files import TensorFiles
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS, OUTPUT_WEIGHT
from valley2_edge.export.decoder.formats import NamedFormats
from valley2_edge.export.decoder.parts import LM_HEAD, DecoderMatrix, DecoderNorm, decoder_parts
from valley2_edge.export.gptq.config import (
    CONFIG_FILE,
    QUANTIZE_CONFIG_FILE,
    check_decoder_config,
    read_gptq_config,
    read_rotation,
)
from valley2_edge.export.gptq.output_scales import SCALES_FILE, OutputScales
from valley2_edge.outside_files import MAX_JSON_BYTES, read_bytes
from valley2_edge.quantize.gptq_checkpoint import (
    GPTQ_TENSORS,
    ZERO_POINTS,
    GptqLinear,
    LinearLayout,
    from_gptq,
    linear_layout,
    read_groups,
)
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows

_BLOCK_ROWS = 4096


class GptqDecoder:
    """An open GPTQ checkpoint, checked by its headers, as the source of a bundle's decoder.

    Args:
        directory: The checkpoint, with config.json, the tensors, and quantize_config.json unless config.json holds its
            content.
        config: The sizes that the decoder must have.

    Attributes:
        path: The directory.
        parts: The decoder's parts in file order, with the names of this checkpoint's tensors.
        formats: How a bundle stores each matrix without a loss.
        method: The rounding method, for a bundle's manifest.
        rotation: What its weights have absorbed of a change of basis; None: they are in the model's own.

    Raises:
        CheckpointError: A file or a tensor is missing, damaged, of another size, or unknown.
        ExportError: The checkpoint holds something that a bundle cannot hold; the message names it.
    """

    def __init__(self, directory: Path, config: DecoderConfig) -> None:
        self.path = directory
        self._config = read_gptq_config(directory)
        self.method = self._config.method
        check_decoder_config(directory, config)
        self.rotation = read_rotation(directory)
        self._files = TensorFiles(directory)
        # A tied model may have an output matrix of its own here, because quantising a decoder unties it.
        own_output = OUTPUT_WEIGHT in self._files or "lm_head.qweight" in self._files
        tied = config.tie_word_embeddings and not own_output
        self.parts = decoder_parts(config.model_copy(update={"tie_word_embeddings": tied}))
        self._layouts: dict[str, LinearLayout] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for part in self.parts:
            if isinstance(part, DecoderMatrix):
                for weight, rows in zip(part.weights, weight_heights(part, config), strict=True):
                    self._read_layer(weight, rows, part.columns)
        self._check_names()
        self._scales: OutputScales | None = None
        if (directory / SCALES_FILE).is_file() and OUTPUT_WEIGHT in self._files:
            self._scales = OutputScales.read(directory / SCALES_FILE, config.vocab_size, config.hidden_size)
        self.formats = self._read_formats()
        self._check_groups()

    @property
    def output_rounded(self) -> bool:
        """Whether lm_head is stored as integers, so that its precision is fixed."""
        return self._scales is not None or "lm_head" in self._layouts

    def fingerprint(self) -> str:
        """SHA-256 over the names, sizes and times of the files and the content of the configs; no tensor is read."""
        digest = hashlib.sha256()
        for file in sorted(file for file in self.path.rglob("*") if file.is_file()):
            status = file.stat()
            digest.update(os.fsencode(file.relative_to(self.path)))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            if file.name in (CONFIG_FILE, QUANTIZE_CONFIG_FILE):
                digest.update(read_bytes(file, MAX_JSON_BYTES, CheckpointError))
        return digest.hexdigest()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; (rows, columns) also of a weight that is stored as integers."""
        return self._shapes[name] if name in self._shapes else self._files.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor that is not stored as integers.

        Raises:
            CheckpointError: There is no such tensor, or it does not hold floats.
        """
        dtype = self._files.dtype(name)
        if dtype not in TORCH_DTYPES.values():
            raise CheckpointError(f"the tensor {name} is stored as {dtype}; bfloat16, float16 or float32 is expected")
        return dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor in its stored dtype.

        Raises:
            CheckpointError: There is no such tensor, it does not hold floats, or its file cannot be read.
        """
        self.dtype(name)
        return self._files.tensor(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads the rows from `start` up to `stop` of a tensor in its stored dtype.

        Raises:
            CheckpointError: There is no such tensor, it does not hold floats, or its file cannot be read.
        """
        self.dtype(name)
        return self._files.rows(name, start, stop)

    def quantized_rows(self, matrix: DecoderMatrix) -> QuantizedRows | None:
        """Reads the integers of a matrix of the bundle.

        Args:
            matrix: One of `parts`.

        Returns:
            The stacked rows of the matrix's layers, in the format that `formats` gives, or None where the checkpoint
            has floats.

        Raises:
            CheckpointError: A tensor is damaged.
            ExportError: A layer holds something that a bundle cannot hold; the message names the tensor.
        """
        if matrix.name == LM_HEAD and self._scales is not None:
            return self._scaled_output(matrix.rows, self._scales)
        layers = [_layer_name(weight) for weight in matrix.weights]
        if layers[0] not in self._layouts:
            return None
        pieces = [self._read_rows(layer) for layer in layers]
        zeros = [piece.zeros for piece in pieces if piece.zeros is not None]
        return QuantizedRows(
            torch.cat([piece.values for piece in pieces]),
            torch.cat([piece.scales for piece in pieces]),
            torch.cat(zeros) if self.formats.of(matrix.name).has_zeros else None,
        )

    def _read_rows(self, layer: str) -> QuantizedRows:
        config = self._config
        linear = self._read_linear(layer, with_integers=True)
        return from_gptq(linear, self._layouts[layer], layer, config.checkpoint_format, carries=config.by_gptqmodel)

    def _read_linear(self, layer: str, with_integers: bool) -> GptqLinear:
        parts = {part: f"{layer}.{part}" for part in self._stored_parts(layer)}
        qweight = self._files.tensor(parts["qweight"]) if with_integers else torch.empty(0, dtype=torch.int32)
        g_idx = self._files.tensor(parts["g_idx"]) if "g_idx" in parts else None
        return GptqLinear(qweight, self._files.tensor(parts["qzeros"]), self._files.tensor(parts["scales"]), g_idx)

    def _check_groups(self) -> None:
        """Finds what a bundle cannot hold before anything is written, by reading the small tensors."""
        config = self._config
        for part in self.parts:
            if not isinstance(part, DecoderMatrix):
                continue
            for layer in map(_layer_name, part.weights):
                if layer not in self._layouts:
                    continue
                layout = self._layouts[layer]
                linear = self._read_linear(layer, with_integers=False)
                groups = read_groups(linear, layout, layer, config.checkpoint_format, carries=config.by_gptqmodel)
                default = ZERO_POINTS[layout.bits]
                if not self.formats.of(part.name).has_zeros and bool((groups.zeros != default).any()):
                    reason = "the checkpoint calls it symmetric" if layout.bits == 4 else "a bundle has none in int8"
                    raise ExportError(f"{layer}.qzeros has zero points other than {default}, but {reason}")

    def _scaled_output(self, rows: int, scales: OutputScales) -> QuantizedRows:
        blocks = [
            scales.integers(self.rows(OUTPUT_WEIGHT, start, min(start + _BLOCK_ROWS, rows)), start)
            for start in range(0, rows, _BLOCK_ROWS)
        ]
        return QuantizedRows(torch.cat(blocks), scales.scales, scales.zeros)

    def _stored_parts(self, layer: str) -> list[str]:
        # AutoGPTQ may leave out g_idx.
        return [part for part in GPTQ_TENSORS if part != "g_idx" or f"{layer}.g_idx" in self._files]

    def _read_layer(self, weight: str, rows: int, columns: int) -> None:
        layer = _layer_name(weight)
        self._shapes[weight] = (rows, columns)
        if f"{layer}.qweight" not in self._files:
            if self._files.shape(weight) != (rows, columns):
                raise CheckpointError(
                    f"{self.path}: {weight} has shape {list(self._files.shape(weight))}; {[rows, columns]} is expected"
                )
            return
        parts = self._stored_parts(layer)
        for part in parts:
            dtype = self._files.dtype(f"{layer}.{part}")
            if (dtype != torch.int32) if part != "scales" else (dtype not in TORCH_DTYPES.values()):
                raise ExportError(f"{layer}.{part} is stored as {dtype}, which is not supported")
        shapes = {part: self._files.shape(f"{layer}.{part}") for part in parts}
        self._layouts[layer] = linear_layout(layer, shapes, rows, columns)

    def _check_names(self) -> None:
        """Checks that every tensor that is needed exists, and that every tensor that exists is known."""
        needed = [EMBEDDINGS]
        for part in self.parts:
            needed += [part.weight] if isinstance(part, DecoderNorm) else part.biases
        for name in needed:
            self._files.shape(name)
        known = {*needed, *self._shapes}
        known |= {f"{layer}.{part}" for layer in self._layouts for part in self._stored_parts(layer)}
        for name in self._files.names():
            if name in known or name.endswith(".rotary_emb.inv_freq"):
                continue
            # Old versions of AutoGPTQ give every layer a bias.
            if name.endswith(".bias") and _layer_name(name) in self._layouts and not self._files.tensor(name).any():
                continue
            raise CheckpointError(f"{self.path} has a tensor {name}, which the decoder of a Valley2 does not have")

    def _read_formats(self) -> NamedFormats:
        named = {part.name: self._format_of(part) for part in self.parts if isinstance(part, DecoderMatrix)}
        layers = [matrix_format for name, matrix_format in named.items() if name != LM_HEAD]
        if not any(matrix_format.quantized for matrix_format in layers):
            raise ExportError(f"{self.path} has no quantized layer: it is no GPTQ checkpoint")
        return NamedFormats(max(layers, key=layers.count), named[LM_HEAD], named)

    def _format_of(self, matrix: DecoderMatrix) -> MatrixFormat:
        if matrix.name == LM_HEAD and self._scales is not None:
            return self._scales.format
        layers = [_layer_name(weight) for weight in matrix.weights]
        stored = {
            (layout.bits, layout.group_size)
            if (layout := self._layouts.get(layer))
            else self._files.dtype(f"{layer}.weight")
            for layer in layers
        }
        if len(stored) > 1:
            raise ExportError(f"{', '.join(layers)} differ in bits or groups, but a bundle stores them as one matrix")
        layout = self._layouts.get(layers[0])
        if layout is None:
            return MatrixFormat("fp16" if stored == {torch.float16} else "fp32")
        if layout.bits == 8:
            return MatrixFormat("int8", layout.group_size)
        symmetric = all(self._config.is_symmetric(layer) for layer in layers)
        return MatrixFormat("int4", layout.group_size, symmetric)


def _layer_name(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def weight_heights(matrix: DecoderMatrix, config: DecoderConfig) -> list[int]:
    """Number of rows of each weight that is stacked into a matrix of the bundle.

    Args:
        matrix: One of `decoder_parts`.
        config: The decoder's sizes.
    """
    if len(matrix.weights) == 3:  # q, k, v
        kv_rows = config.num_key_value_heads * config.head_size
        return [matrix.rows - 2 * kv_rows, kv_rows, kv_rows]
    return [matrix.rows // len(matrix.weights)] * len(matrix.weights)
