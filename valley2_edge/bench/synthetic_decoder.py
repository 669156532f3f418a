"""A decoder of given sizes with weights that mean nothing, in the layout of docs/bundle.md, made without torch.

The kernels take the same time for all weights; these are random all the same, of a scale that keeps every layer finite.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from valley2_edge.bench.work import MatrixSize, layer_matrices
from valley2_edge.byte_count import format_bytes
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import BudgetError, InputError
from valley2_edge.precisions import GROUP_SIZES, DecoderPrecision, default_group_size

Array = npt.NDArray[Any]

PANEL = 64
ALIGNMENT = 64
BLOCK_VALUES = 1 << 22
"""Number of random values before they repeat."""
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "U8": np.dtype(np.uint8)}
# Standard deviation of uniform integers around their zero point.
_DEVIATIONS: dict[DecoderPrecision, float] = {"int4": 4.6, "int8": 73.9}


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[int], Array]
    """Makes a dense array of a number of values, at most `BLOCK_VALUES`."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * _DTYPES[self.dtype].itemsize


class SyntheticDecoder:
    """The files of a decoder, not written yet.

    Args:
        config: Sizes of the decoder.
        precision: Precision of the layers' matrices.
        group_size: Columns that share a scale: 32, 64 or 128. None: as in an export by default.
        seed: Random seed of the weights.
        lm_head_precision: None: int8 beside int4 and the same otherwise, as in an export.

    Raises:
        InputError: The group size does not divide the sizes.
    """

    def __init__(
        self,
        config: DecoderConfig,
        precision: DecoderPrecision = "int4",
        group_size: int | None = None,
        seed: int = 0,
        lm_head_precision: DecoderPrecision | None = None,
    ) -> None:
        self._config = config
        head = lm_head_precision or ("int8" if precision == "int4" else precision)
        self._matrices = _matrix_formats(config, precision, head, group_size)
        self._tensors = list(_decoder_tensors(config, self._matrices, np.random.default_rng(seed)))

    @property
    def size(self) -> int:
        """Bytes that the files take on the disk."""
        return sum(tensor.size for tensor in self._tensors)

    def write(self, directory: Path) -> None:
        """Writes decoder.safetensors and embeddings.safetensors; the embeddings are zeros without blocks on the disk.

        Args:
            directory: A folder that exists.

        Raises:
            BudgetError: The disk cannot hold the files.
            OSError: They cannot be written.
        """
        free = shutil.disk_usage(directory).free
        if self.size > free:
            raise BudgetError(
                f"The decoder takes {format_bytes(self.size)}, but the disk of {directory} has {format_bytes(free)} "
                "free; take fewer layers, or name another directory in $TMPDIR."
            )
        metadata = {
            "format": "valley2-decoder",
            "format_version": "1",
            "config": json.dumps({**self._config.model_dump(), "head_size": self._config.head_size}),
            "matrices": json.dumps({name: entry for name, (_, entry) in self._matrices.items()}),
        }
        with (directory / "decoder.safetensors").open("wb") as stream:
            _write_header(stream, self._tensors, metadata)
            for tensor in self._tensors:
                _write_tensor(stream, tensor)
        shape = (self._config.vocab_size, self._config.hidden_size)
        table = _Tensor("embeddings.weight", "F16", shape, lambda count: np.zeros(count, np.float16))
        with (directory / "embeddings.safetensors").open("wb") as stream:
            _write_header(stream, [table], {"format": "valley2-embeddings", "format_version": "1"})
            stream.truncate(stream.tell() + table.size)


def _matrix_formats(
    config: DecoderConfig, precision: DecoderPrecision, head_precision: DecoderPrecision, group_size: int | None
) -> dict[str, tuple[MatrixSize, dict[str, Any]]]:
    """Every matrix with its entry in the file's metadata."""
    if group_size is not None and group_size not in GROUP_SIZES:
        raise InputError(f"--group-size must be one of {', '.join(map(str, GROUP_SIZES))}, not {group_size}")
    sizes = [size for index in range(config.num_hidden_layers) for size in layer_matrices(config, index)]
    head = MatrixSize("lm_head", config.vocab_size, config.hidden_size)
    formats = {}
    for size in (*sizes, head):
        chosen = head_precision if size is head else precision
        quantized = chosen in _DEVIATIONS
        columns = group_size or default_group_size(chosen, size.name, size.columns)
        if quantized and size.columns % columns:
            raise InputError(f"{size.name} has {size.columns} columns, which groups of {columns} do not divide")
        formats[size.name] = (
            size,
            {
                "precision": chosen,
                "rows": size.rows,
                "columns": size.columns,
                "group_size": columns if quantized else 0,
                "symmetric": chosen != "int4",
            },
        )
    return formats


def _decoder_tensors(
    config: DecoderConfig, matrices: dict[str, tuple[MatrixSize, dict[str, Any]]], generator: np.random.Generator
) -> Iterator[_Tensor]:
    """Every tensor of decoder.safetensors in file order."""
    block = generator.integers(0, 256, BLOCK_VALUES, np.uint8)
    normal = generator.standard_normal(BLOCK_VALUES, np.float32)

    def norm(name: str) -> _Tensor:
        return _Tensor(name, "F32", (config.hidden_size,), lambda count: np.ones(count, np.float32))

    for index in range(config.num_hidden_layers):
        qkv, output, gate_up, down = (matrices[size.name] for size in layer_matrices(config, index))
        yield norm(f"layers.{index}.input_norm")
        yield from _matrix_tensors(*qkv, block, normal)
        yield _Tensor(f"{qkv[0].name}.bias", "F32", (qkv[0].rows,), lambda count: normal[:count])
        yield from _matrix_tensors(*output, block, normal)
        yield norm(f"layers.{index}.post_attention_norm")
        yield from _matrix_tensors(*gate_up, block, normal)
        yield from _matrix_tensors(*down, block, normal)
    yield norm("norm")
    yield from _matrix_tensors(*matrices["lm_head"], block, normal)


def _matrix_tensors(size: MatrixSize, entry: dict[str, Any], block: Array, normal: Array) -> Iterator[_Tensor]:
    precision: DecoderPrecision = entry["precision"]
    panels, columns = -(-size.rows // PANEL), size.columns
    scale = columns**-0.5
    name = f"{size.name}.weight"
    if precision in ("fp32", "fp16"):
        dtype = "F32" if precision == "fp32" else "F16"
        yield _Tensor(
            name, dtype, (panels, columns, PANEL), lambda count: (normal[:count] * scale).astype(_DTYPES[dtype])
        )
        return
    groups = (panels, columns // entry["group_size"], PANEL)
    step = scale / _DEVIATIONS[precision]
    per_word = 8 if precision == "int4" else 4
    yield _Tensor(name, "U8", (panels, columns // per_word, PANEL, 4), lambda count: block[:count])
    yield _Tensor(f"{size.name}.scales", "F16", groups, lambda count: np.full(count, step, np.float16))
    if not entry["symmetric"]:
        yield _Tensor(f"{size.name}.zeros", "U8", groups, lambda count: np.full(count, 8, np.uint8))


def _write_header(stream: BinaryIO, tensors: Sequence[_Tensor], metadata: dict[str, str]) -> None:
    """The header of a safetensors file whose tensors all begin at a multiple of 64 bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end + -end % ALIGNMENT
        if offset > end:
            entries[f"_pad.{len(entries)}"] = {"dtype": "U8", "shape": [offset - end], "data_offsets": [end, offset]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)


def _write_tensor(stream: BinaryIO, tensor: _Tensor) -> None:
    """Writes the values of a tensor and its padding; more values than a block holds repeat it."""
    whole, rest = divmod(prod(tensor.shape), BLOCK_VALUES)
    if whole:
        piece = tensor.make(BLOCK_VALUES).view(np.uint8).data
        for _ in range(whole):
            stream.write(piece)
    stream.write(tensor.make(rest).view(np.uint8).data)
    stream.write(bytes(-tensor.size % ALIGNMENT))
