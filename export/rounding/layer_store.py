"""Keeps the rounded layers of an unfinished export on disk, so that a later run can go on after the last of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from valley2_edge.errors import ExportError
from valley2_edge.export.bundle.safetensors_stream import SafetensorsStream, TensorPlan, dtype_name
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import ExportControl
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.parts import DecoderMatrix, decoder_parts
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.method import MatrixRecord
from valley2_edge.quantize.packing import pack_int4, unpack_int4
from valley2_edge.quantize.rtn import QuantizedRows

STATE_FILE = "state.json"


@dataclass
class LayerState:
    """What is finished of a rounding."""

    steps: int = 0
    """Number of finished layers; lm_head counts as the last one."""
    records: list[MatrixRecord] = field(default_factory=list)
    """What was done to each finished matrix."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of wall time that each kind of work took, summed over all runs."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of processor time, summed over all threads and runs."""
    step_seconds: list[float] = field(default_factory=list)
    """Seconds of wall time that each layer took."""
    peak_bytes: int = 0
    """Largest memory of the process."""


class LayerStore:
    """The directory with a file for every rounded layer and the state that names the finished ones.

    Args:
        directory: The directory, which is made.
        control: Stops the export from another thread; None means that nothing does.
    """

    def __init__(self, directory: Path, control: ExportControl | None = None) -> None:
        self.directory = directory
        self.control = control or ExportControl()
        directory.mkdir(parents=True, exist_ok=True)
        self.state = self._read_state()

    def layer_path(self, step: int) -> Path:
        """The file with the rounded matrices of a layer."""
        return self.directory / f"layer-{step:03}.safetensors"

    def activations_path(self, step: int) -> Path:
        """The file with the input of a layer."""
        return self.directory / f"activations-{step:03}.bin"

    def exact_path(self, step: int) -> Path:
        """The file with the input of a layer in the unrounded model."""
        return self.directory / f"exact-{step:03}.bin"

    def write_layer(self, step: int, matrices: Mapping[str, QuantizedRows]) -> None:
        """Writes the rounded matrices of a layer, with two int4 numbers in a byte.

        Args:
            step: The layer.
            matrices: The rounded matrices by name.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, rows in matrices.items():
            four_bits = int(rows.values.max()) < 16 and rows.values.shape[1] % 8 == 0
            tensors[f"{name}.int4" if four_bits else f"{name}.int8"] = (
                pack_int4(rows.values, padding=0) if four_bits else rows.values
            )
            tensors[f"{name}.scales"] = rows.scales
            if rows.zeros is not None:
                tensors[f"{name}.zeros"] = rows.zeros
        plan = [TensorPlan(name, dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()]
        path = self.layer_path(step)
        with SafetensorsStream(path, plan, {"format": "valley2-rounded-layer"}) as stream:
            for name, tensor in tensors.items():
                stream.write(name, [tensor])
        flush_file(path)

    def read_matrix(self, step: int, name: str, rows: int) -> QuantizedRows:
        """Reads a rounded matrix of a finished layer.

        Args:
            step: The layer.
            name: The matrix.
            rows: Number of rows of the matrix.

        Raises:
            ExportError: The file is damaged.
        """
        try:
            with safe_open(self.layer_path(step), "pt") as reader:
                names = set(reader.keys())
                four_bits = f"{name}.int4" in names
                packed = reader.get_tensor(f"{name}.int4" if four_bits else f"{name}.int8").clone()
                scales = reader.get_tensor(f"{name}.scales").clone()
                zeros = reader.get_tensor(f"{name}.zeros").clone() if f"{name}.zeros" in names else None
        except Exception as error:  # safetensors' own errors share no base class
            raise ExportError(
                f"{self.layer_path(step)} is damaged: delete {self.directory} and export again"
            ) from error
        return QuantizedRows(unpack_int4(packed, rows) if four_bits else packed, scales, zeros)

    def commit(self, state: LayerState) -> None:
        """Records a new state, from which a later run goes on.

        Args:
            state: The state; the files of the layers that it counts must be on disk already.

        Raises:
            Cancelled: The export was stopped.
        """
        content = {**asdict(state), "records": [asdict(record) for record in state.records]}
        temporary = self.directory / f"{STATE_FILE}.new"
        temporary.write_text(json.dumps(content), "utf-8")
        flush_file(temporary)
        with self.control.finishing():
            temporary.replace(self.directory / STATE_FILE)
        self.state = state
        kept = self.activations_path(state.steps), self.exact_path(state.steps)
        for path in self.directory.glob("*-[0-9]*.bin"):
            if path not in kept:
                path.unlink()

    def _read_state(self) -> LayerState:
        try:
            content = json.loads((self.directory / STATE_FILE).read_text("utf-8"))
            records = [MatrixRecord(**record) for record in content.pop("records")]
            state = LayerState(**content, records=records)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return LayerState()
        whole = all(self.layer_path(step).is_file() for step in range(state.steps))
        return state if whole else LayerState()


class RoundedLayers:
    """A decoder that is rounded layer by layer, as `export_rounded_decoder` reads it.

    Args:
        checkpoint: Where everything that is not rounded comes from.
        store: The store, with all layers finished.
        formats: How the matrices are stored.
    """

    def __init__(self, checkpoint: Checkpoint, store: LayerStore, formats: DecoderFormats) -> None:
        self._checkpoint = checkpoint
        self._store = store
        self._formats = formats
        self.parts = decoder_parts(checkpoint.config.decoder)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of the checkpoint."""
        return self._checkpoint.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which the checkpoint stores a tensor."""
        return self._checkpoint.dtype(name)

    def tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor of the checkpoint in its stored dtype."""
        return self._checkpoint.tensor(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads the rows from `start` up to `stop` of a tensor of the checkpoint in its stored dtype."""
        return self._checkpoint.rows(name, start, stop)

    def quantized_rows(self, matrix: DecoderMatrix) -> QuantizedRows | None:
        """Reads the integers of a matrix; returns None where it is stored as floats."""
        matrix_format: MatrixFormat = self._formats.of(matrix.name)
        if not matrix_format.quantized:
            return None
        return self._store.read_matrix(step_of(matrix.name, self._checkpoint), matrix.name, matrix.rows)


def step_of(name: str, checkpoint: Checkpoint) -> int:
    """The step that rounds a matrix: the number of its layer, or the number of layers for lm_head.

    Args:
        name: The matrix's name in a bundle.
        checkpoint: The model.
    """
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else checkpoint.config.decoder.num_hidden_layers


def flush_file(path: Path) -> None:
    """Waits until a file is safe on disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def record_facts(record: MatrixRecord) -> dict[str, Any]:
    """A record as plain JSON for the manifest and the report, with numbers of six digits.

    Args:
        record: What was done to a matrix.
    """
    facts = asdict(record)
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in facts.items()}
