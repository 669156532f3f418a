"""Writes the decoder of a bundle as a GPTQ checkpoint of a Qwen2 model (docs/interchange.md)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from valley2_edge.config import ModelConfig
from valley2_edge.errors import ExportError
from valley2_edge.export.bundle.safetensors_stream import SafetensorsStream, TensorPlan, dtype_name, file_size
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS, OUTPUT_WEIGHT
from valley2_edge.export.control import Progress, no_progress
from valley2_edge.export.decoder.parts import LM_HEAD, DecoderMatrix, DecoderNorm, decoder_parts
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.gptq.config import ROTATION_KEY
from valley2_edge.export.gptq.output_scales import SCALES_TENSOR, ZEROS_TENSOR, OutputScales
from valley2_edge.export.gptq.source import weight_heights
from valley2_edge.quantize.gptq_checkpoint import ZERO_POINTS, GptqFormat, group_numbers, pack_words, pack_zeros
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows
from valley2_edge.rotation import Rotation
from valley2_edge.version import __version__

Pieces = Iterable[torch.Tensor]

_BLOCK_ROWS = 4096
_METADATA = {"format": "pt"}  # without it transformers refuses the file


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the checkpoint and how it is made."""

    plan: TensorPlan
    pieces: Callable[[], Pieces]


class GptqWriter:
    """Writes the tensors and the configuration of a bundle's decoder.

    Args:
        decoder: The bundle's decoder.
        checkpoint_format: How zero points are stored. None means `gptq` for a decoder without zero points, else
            `gptq_v2`.

    Raises:
        ExportError: The layout cannot hold a matrix; the message names it.
    """

    def __init__(self, decoder: StoredDecoder, checkpoint_format: GptqFormat | None = None) -> None:
        self._decoder = decoder
        self._config = decoder.config
        # lm_head is written separately even where the model ties it, because rounding has made it another matrix.
        parts = decoder_parts(decoder.config.model_copy(update={"tie_word_embeddings": False}))
        self._norms = [part for part in parts if isinstance(part, DecoderNorm)]
        matrices = [part for part in parts if isinstance(part, DecoderMatrix)]
        self._layers = [matrix for matrix in matrices if matrix.name != LM_HEAD]
        self._formats = {matrix.name: decoder.format(matrix.name) for matrix in matrices}
        for name, matrix_format in self._formats.items():
            if matrix_format.code != "uniform":
                raise ExportError(f"{name} is {matrix_format.code}: the GPTQ layout knows levels of equal steps only")
        quantized = [self._formats[layer.name] for layer in self._layers if self._formats[layer.name].quantized]
        if not quantized:
            raise ExportError("the decoder has no int4 or int8 layer: the GPTQ layout is for quantized ones")
        self._usual = Counter(quantized).most_common(1)[0][0]
        has_zeros = any(matrix_format.has_zeros for matrix_format in quantized)
        self._format: GptqFormat = checkpoint_format or ("gptq_v2" if has_zeros else "gptq")
        self._tensors = self._plan_tensors()

    @property
    def size(self) -> int:
        """Size of all tensors in bytes."""
        scales = self._plan_scales()
        total = file_size([tensor.plan for tensor in self._tensors], _METADATA, padded=False)
        return total + sum(tensor.plan.size for tensor in scales) + (1 << 12)

    def write_tensors(self, path: Path, progress: Progress) -> None:
        """Writes model.safetensors.

        Args:
            path: The file.
            progress: Called after every tensor.

        Raises:
            ExportError: The layout cannot hold a matrix; the message names it.
            OSError: The file cannot be written.
        """
        _write(path, self._tensors, _METADATA, progress)

    def write_scales(self, path: Path) -> None:
        """Writes the scales of lm_head, if it has any.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be written.
        """
        if self._formats[LM_HEAD].quantized:
            path.parent.mkdir(exist_ok=True)
            _write(path, self._plan_scales(), OutputScales.metadata(self._formats[LM_HEAD]), no_progress)

    def quantize_config(self, method: str) -> dict[str, Any]:
        """The content of quantize_config.json.

        Args:
            method: How the bundle's decoder was rounded.
        """
        usual = self._usual
        values = {
            **_facts(usual),
            "desc_act": False,
            "static_groups": False,
            "true_sequential": True,
            "damp_percent": 0.01,
            "lm_head": False,
            "quant_method": "gptq",
            "checkpoint_format": self._format,
            "format": self._format,
            "pack_dtype": "int32",
            "meta": {"quantizer": [f"valley2-edge:{__version__}"], "method": method},
        }
        dynamic: dict[str, dict[str, Any]] = {}
        for matrix in self._layers:
            matrix_format = self._formats[matrix.name]
            for weight in matrix.weights if matrix_format != usual else ():
                pattern = f"^{re.escape(weight.removesuffix('.weight'))}$"
                facts = _facts(matrix_format) if matrix_format.quantized else {}
                dynamic[f"{'+' if facts else '-'}:{pattern}"] = facts
        return values | {"dynamic": dynamic} if dynamic else values

    def model_config(self, architecture: ModelConfig, method: str, rotation: Rotation | None = None) -> dict[str, Any]:
        """The content of config.json.

        Args:
            architecture: The bundle's architecture.
            method: How the bundle's decoder was rounded.
            rotation: What the bundle's weights have absorbed. The model is whole without knowing it; who joins it to
                vision towers must.
        """
        stop = architecture.stop_tokens
        marker = {} if rotation is None else {ROTATION_KEY: rotation.model_dump()}
        return {
            **marker,
            **self._config.model_dump(),
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": stop[-1],
            "eos_token_id": list(stop),
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "model_type": "qwen2",
            "quantization_config": self.quantize_config(method),
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "use_cache": True,
            "use_sliding_window": False,
        }

    def _plan_tensors(self) -> list[_Tensor]:
        tensors = [self._plan_embeddings()]
        tensors += [self._plan_vector(norm.weight, norm.name, self._decoder.embeddings_dtype()) for norm in self._norms]
        for matrix in self._layers:
            first = 0
            for weight, rows in zip(matrix.weights, weight_heights(matrix, self._config), strict=True):
                tensors += self._plan_layer(matrix, weight.removesuffix(".weight"), first, first + rows)
                first += rows
            first = 0
            for bias, rows in zip(matrix.biases, weight_heights(matrix, self._config), strict=False):
                tensors.append(self._plan_vector(bias, f"{matrix.name}.bias", torch.float16, first, first + rows))
                first += rows
        tensors.append(self._plan_output())
        # Readers view the file as tensors, which needs each to begin at a multiple of its item size.
        return sorted(tensors, key=lambda tensor: -_item_size(tensor.plan))

    def _plan_embeddings(self) -> _Tensor:
        rows, decoder = self._config.vocab_size, self._decoder
        plan = TensorPlan(EMBEDDINGS, dtype_name(decoder.embeddings_dtype()), (rows, self._config.hidden_size))
        return _Tensor(plan, lambda: (decoder.embedding_rows(first, last) for first, last in _blocks(rows)))

    def _plan_vector(
        self, name: str, ours: str, dtype: torch.dtype, first: int = 0, last: int | None = None
    ) -> _Tensor:
        """A norm or a bias, as `dtype` where that is exact, and as float32 elsewhere."""
        exact = self._decoder.tensor(ours)[first:last]
        stored = exact.to(dtype)
        vector = stored if torch.equal(stored.to(torch.float32), exact) else exact
        return _Tensor(TensorPlan(name, dtype_name(vector.dtype), tuple(vector.shape)), lambda: [vector])

    def _plan_layer(self, matrix: DecoderMatrix, layer: str, first: int, last: int) -> list[_Tensor]:
        matrix_format, decoder, columns = self._formats[matrix.name], self._decoder, matrix.columns
        if not matrix_format.quantized:
            return [self._plan_floats(matrix.name, f"{layer}.weight", first, last, columns)]
        bits, group_size, rows = matrix_format.bits, matrix_format.group_size, last - first
        if rows * bits % 32:
            raise ExportError(f"{layer} has {rows} rows: the GPTQ layout needs a multiple of {32 // bits}")

        groups = columns // group_size

        def zeros() -> torch.Tensor:
            if matrix_format.has_zeros:
                return decoder.groups(matrix.name, "zeros", first, last)
            return torch.full((rows, groups), ZERO_POINTS[bits], dtype=torch.uint8)

        return [
            _Tensor(
                TensorPlan(f"{layer}.qweight", "I32", (columns * bits // 32, rows)),
                lambda: [pack_words(decoder.quantized_rows(matrix.name, first, last).values.T, bits)],
            ),
            _Tensor(
                TensorPlan(f"{layer}.qzeros", "I32", (groups, rows * bits // 32)),
                lambda: [pack_zeros(zeros(), bits, layer, self._format)],
            ),
            _Tensor(
                TensorPlan(f"{layer}.g_idx", "I32", (columns,)),
                lambda: [group_numbers(columns, group_size)],
            ),
            _Tensor(
                TensorPlan(f"{layer}.scales", "F16", (groups, rows)),
                lambda: [decoder.groups(matrix.name, "scales", first, last).T],
            ),
        ]

    def _plan_floats(self, ours: str, name: str, first: int, last: int, columns: int) -> _Tensor:
        """A matrix of floats; float32 becomes bfloat16 where every value is one, as the checkpoint may have had it."""
        decoder = self._decoder

        def blocks() -> Iterator[torch.Tensor]:
            for start, stop in _blocks(last - first):
                yield decoder.floats(ours, first + start, first + stop)

        if self._formats[ours].precision == "fp16":
            return _Tensor(TensorPlan(name, "F16", (last - first, columns)), blocks)
        if all(torch.equal(block.to(torch.bfloat16).to(torch.float32), block) for block in blocks()):
            plan = TensorPlan(name, "BF16", (last - first, columns))
            return _Tensor(plan, lambda: (block.to(torch.bfloat16) for block in blocks()))
        return _Tensor(TensorPlan(name, "F32", (last - first, columns)), blocks)

    def _plan_output(self) -> _Tensor:
        """lm_head as plain weights: loaders expect that, and its rows need not fill the words of the layout."""
        config, decoder, matrix_format = self._config, self._decoder, self._formats[LM_HEAD]
        if not matrix_format.quantized:
            return self._plan_floats(LM_HEAD, OUTPUT_WEIGHT, 0, config.vocab_size, config.hidden_size)

        def blocks() -> Iterator[torch.Tensor]:
            for first, last in _blocks(config.vocab_size):
                rows = decoder.quantized_rows(LM_HEAD, first, last)
                _check_lost_integers(rows, matrix_format)
                yield dequantize_rows(rows, matrix_format)

        return _Tensor(TensorPlan(OUTPUT_WEIGHT, "F32", (config.vocab_size, config.hidden_size)), blocks)

    def _plan_scales(self) -> list[_Tensor]:
        matrix_format, decoder = self._formats[LM_HEAD], self._decoder
        if not matrix_format.quantized:
            return []
        shape = (self._config.vocab_size, self._config.hidden_size // matrix_format.group_size)
        tensors = [_Tensor(TensorPlan(SCALES_TENSOR, "F16", shape), lambda: [decoder.groups(LM_HEAD, "scales")])]
        if matrix_format.has_zeros:
            tensors.append(_Tensor(TensorPlan(ZEROS_TENSOR, "U8", shape), lambda: [decoder.groups(LM_HEAD, "zeros")]))
        return tensors


def _write(path: Path, tensors: Sequence[_Tensor], metadata: dict[str, str], progress: Progress) -> None:
    with SafetensorsStream(path, [tensor.plan for tensor in tensors], metadata, padded=False) as stream:
        for done, tensor in enumerate(tensors, 1):
            stream.write(tensor.plan.name, tensor.pieces())
            progress("tensors", done, len(tensors))


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, _BLOCK_ROWS):
        yield first, min(first + _BLOCK_ROWS, rows)


def _item_size(plan: TensorPlan) -> int:
    return {"F32": 4, "I32": 4, "F16": 2, "BF16": 2}[plan.dtype]


def _facts(matrix_format: MatrixFormat) -> dict[str, Any]:
    return {
        "bits": matrix_format.bits,
        "group_size": matrix_format.group_size,
        "sym": matrix_format.is_symmetric,
    }


def _check_lost_integers(rows: QuantizedRows, matrix_format: MatrixFormat) -> None:
    """Refuses a group whose scale is 0 and whose integers are not its zero point: reading back gives the zero point."""
    default = ZERO_POINTS[matrix_format.bits]
    zeros = torch.full_like(rows.scales, default, dtype=torch.uint8) if rows.zeros is None else rows.zeros
    groups = rows.values.reshape(*rows.scales.shape, -1)
    if bool(((groups != zeros[..., None]) & (rows.scales == 0)[..., None]).any()):
        raise ExportError(f"{LM_HEAD} has a group with a scale of 0 and integers other than its zero point")
