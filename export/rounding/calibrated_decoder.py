"""Rounds a decoder layer by layer, each on what the rounded layers before it compute for a calibration set."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from valley2_edge.byte_count import format_bytes
from valley2_edge.calibration.activations import ITEM_BYTES, Activations, open_activations
from valley2_edge.calibration.decoder_block import attend, gate, rms_norm
from valley2_edge.calibration.packs import Pack
from valley2_edge.config import DecoderConfig
from valley2_edge.duration import format_duration
from valley2_edge.errors import BudgetError, ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import Announce, Progress
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layers import (
    MLP_ROWS,
    HeadParts,
    LayerParts,
    biases,
    check_finite,
    feed_forward,
    norm_weight,
    row_blocks,
    split_parts,
    stacked_rows,
)
from valley2_edge.export.decoder.parts import DecoderMatrix
from valley2_edge.export.rounding.layer_store import LayerState, LayerStore
from valley2_edge.export.rounding.work_meter import WorkMeter
from valley2_edge.quantize.factor import factor_dtype
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.method import MatrixRecord, Method
from valley2_edge.quantize.modality import PictureWeight, TokenCounts, picture_token_weight, token_weights
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows
from valley2_edge.runtime.core.process_memory import peak_bytes, resident_bytes

STAGE = "decoder"
_BLOCK_ROWS = 1024  # rows of a matrix that are rounded at a time
_GIB = 1 << 30


@dataclass(frozen=True)
class RoundingPlan:
    """How the decoder is rounded."""

    method: Method
    formats: DecoderFormats
    picture_weight: PictureWeight = None
    """Weight of a picture token beside a text token (modality.py)."""
    budget_bytes: int = 8 * _GIB
    """Memory that the process may take."""


def round_decoder(
    checkpoint: Checkpoint,
    store: LayerStore,
    packs: Sequence[Pack],
    plan: RoundingPlan,
    progress: Progress,
    announce: Announce,
) -> LayerState:
    """Rounds every layer and lm_head, beginning after the last one that an earlier run has finished.

    The matrices of a layer are rounded in the order of computation: the inputs of a matrix are what the rounded
    matrices before it compute, also within the layer (the "true sequential" mode of the code of arXiv 2210.17323).
    After every layer its matrices and the next layer's input are on disk, so that a run that was killed goes on with
    the same bits.

    Args:
        checkpoint: Where the weights come from.
        store: Holds the layers that are finished and the input of the next one.
        packs: The calibration set.
        plan: How to round.
        progress: Called after every matrix.
        announce: Called after every layer with a sentence that says how long the rest will take.

    Returns:
        What was done to every matrix.

    Raises:
        BudgetError: The memory does not suffice for the largest matrix.
        NumericError: An activation is a NaN or an infinity; the message names the layer.
        ExportError: A matrix cannot be stored in its format.
        Cancelled: The export was stopped.
    """
    with torch.inference_mode():
        rounder = _Rounder(checkpoint, store, packs, plan, progress)
        store.control.note_layers(store.state.steps, rounder.steps)
        while not rounder.finished:
            rounder.step()
            store.control.note_layers(store.state.steps, rounder.steps)
            left = rounder.meter.remaining_seconds()
            if left is not None and not rounder.finished:
                took = format_duration(store.state.step_seconds[-1])
                announce(
                    f"{store.state.steps} of {rounder.steps} layers are rounded, the last in {took}: "
                    f"about {format_duration(left)} remain"
                )
    return store.state


def working_bytes(config: DecoderConfig, pack_rows: int, block_rows: int = _BLOCK_ROWS) -> int:
    """Memory in bytes that the largest step of a layer takes, besides the activations and the process itself.

    Args:
        config: The decoder's sizes.
        pack_rows: Number of rows of the longest pack.
        block_rows: Number of rows of a matrix that are rounded at a time.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    kv_rows = 2 * config.num_key_value_heads * config.head_size
    gate_up, down = 2 * wide * hidden * 4, wide * hidden * 4
    rows = 4 * pack_rows * (8 * hidden + 2 * kv_rows) + 4 * min(pack_rows, MLP_ROWS) * 5 * wide
    solving = max(_solver_bytes(hidden, block_rows) + gate_up, _solver_bytes(wide, block_rows) + gate_up + down)
    return max(solving, gate_up + 4 * wide * wide + rows, gate_up + down + rows)


def _solver_bytes(columns: int, block_rows: int) -> int:
    """Memory for a Hessian, its factor (for a moment in two precisions) and the rows that are rounded."""
    factor = 12 if factor_dtype(columns) == torch.float64 else 4
    return columns * columns * (4 + factor) + 25 * block_rows * columns


class _Rounder:
    """Rounds one layer after the other; keeps what is needed from one layer to the next."""

    def __init__(
        self, checkpoint: Checkpoint, store: LayerStore, packs: Sequence[Pack], plan: RoundingPlan, progress: Progress
    ) -> None:
        self._checkpoint = checkpoint
        self._config = checkpoint.config.decoder
        self._store = store
        self._packs = packs
        self._plan = plan
        self._progress = progress
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._layers, self._head = split_parts(self._config)
        self._lengths = [pack.rows for pack in packs]
        self.steps = len(self._layers) + 1
        self._in_memory = self._fits_in_memory()
        self._weights = self._token_weights()
        self._records: list[MatrixRecord] = []
        self._rounded: dict[str, QuantizedRows] = {}
        self._source = self._activations(store.state.steps, saved=True)
        self.meter = self._make_meter()

    @property
    def finished(self) -> bool:
        """Whether every matrix is rounded."""
        return self._store.state.steps >= self.steps

    def step(self) -> None:
        """Rounds one layer, or lm_head, and makes it safe on disk."""
        begin = time.perf_counter()
        before = dict(self.meter.seconds), dict(self.meter.cpu_seconds)
        number = self._store.state.steps
        self._records, self._rounded = [], {}
        target: Activations | None = None
        if number < len(self._layers):
            target = self._activations(number + 1, saved=False)
            self._round_layer(number, self._layers[number], target)
            target.save(self._store.activations_path(number + 1))
        else:
            self._round_head(self._head)
        self._store.write_layer(number, self._rounded)
        state = self._store.state
        self._source.close()
        self._store.commit(
            replace(
                state,
                steps=number + 1,
                records=[*state.records, *self._records],
                seconds=_added(state.seconds, self.meter.seconds, before[0]),
                cpu_seconds=_added(state.cpu_seconds, self.meter.cpu_seconds, before[1]),
                step_seconds=[*state.step_seconds, time.perf_counter() - begin],
                peak_bytes=max(state.peak_bytes, peak_bytes() or 0),
            )
        )
        if target is not None:
            self._source = target

    def _round_layer(self, number: int, parts: LayerParts, target: Activations) -> None:
        epsilon = self._config.rms_norm_eps
        norm = norm_weight(self._checkpoint, parts.input_norm).to(self._device)
        hessian = self._hessian(parts.qkv)
        for index in range(len(self._packs)):
            hidden = self._source.read(index).to(self._device)  # (rows, hidden)
            check_finite(hidden, number, "its calibration inputs")
            self._add(hessian, index, rms_norm(hidden, norm, epsilon))
        qkv = self._round(parts.qkv, hessian)

        bias = biases(self._checkpoint, parts.qkv)
        hessian = self._hessian(parts.output)
        for index, pack in enumerate(self._packs):
            with self.meter.measured("forward", qkv.numel() * pack.rows):
                mixed = rms_norm(self._source.read(index).to(self._device), norm, epsilon) @ qkv.T
                if bias is not None:
                    mixed += bias.to(self._device)
                attended = attend(mixed, pack, self._config)  # (rows, q_rows)
            self._add(hessian, index, attended)
            target.write(index, attended.cpu())
        output = self._round(parts.output, hessian)
        del qkv, mixed, attended

        norm = norm_weight(self._checkpoint, parts.post_attention_norm).to(self._device)
        hessian = self._hessian(parts.gate_up)
        for index, pack in enumerate(self._packs):
            with self.meter.measured("forward", output.numel() * pack.rows):
                hidden = self._source.read(index).to(self._device) + target.read(index).to(self._device) @ output.T
            target.write(index, hidden.cpu())
            self._add(hessian, index, rms_norm(hidden, norm, epsilon))
        gate_up = self._round(parts.gate_up, hessian)
        del output, hessian
        down = self._round_down(parts.down, target, norm, gate_up)
        for index, pack in enumerate(self._packs):
            with self.meter.measured("forward", (gate_up.numel() + down.numel()) * pack.rows):
                hidden = feed_forward(target.read(index).to(self._device), norm, gate_up, down, epsilon)
            check_finite(hidden, number, "the calibration set")
            target.write(index, hidden.cpu())

    def _round_down(
        self, matrix: DecoderMatrix, target: Activations, norm: torch.Tensor, gate_up: torch.Tensor
    ) -> torch.Tensor:
        hessian = self._hessian(matrix)
        for index, pack in enumerate(self._packs):
            hidden = target.read(index).to(self._device)
            weights = self._weights[index]
            for start in range(0, pack.rows, MLP_ROWS):
                rows = hidden[start : start + MLP_ROWS]
                with self.meter.measured("forward", gate_up.numel() * len(rows)):
                    gated = gate(rms_norm(rows, norm, self._config.rms_norm_eps) @ gate_up.T)
                with self.meter.measured("hessian", gated.shape[1] ** 2 * len(rows)):
                    hessian.add(gated, weights[start : start + MLP_ROWS])
        return self._round(matrix, hessian)

    def _round_head(self, parts: HeadParts) -> None:
        """Rounds lm_head on text rows only, because no answer is predicted at a picture's row."""
        norm = norm_weight(self._checkpoint, parts.norm).to(self._device)
        hessian = self._hessian(parts.lm_head)
        if self._plan.formats.of(parts.lm_head.name).quantized:
            for index, pack in enumerate(self._packs):
                hidden = self._source.read(index)[~pack.is_picture].to(self._device)
                check_finite(hidden, len(self._layers), "the input of lm_head")
                with self.meter.measured("hessian", hidden.shape[1] ** 2 * len(hidden)):
                    hessian.add(rms_norm(hidden, norm, self._config.rms_norm_eps))
        self._round(parts.lm_head, hessian, keep=False)

    def _round(self, matrix: DecoderMatrix, hessian: Hessian, keep: bool = True) -> torch.Tensor:
        """Rounds a matrix and returns its rounded weights, (rows, columns) float32; empty unless `keep`."""
        matrix_format = self._plan.formats.of(matrix.name)
        if not matrix_format.quantized:
            return self._stored_floats(matrix) if keep else torch.empty(0)
        with self.meter.measured("factor", float(matrix.columns) ** 3):
            rounding = self._plan.method.start(matrix_format, matrix.name, hessian)
        blocks: list[QuantizedRows] = []
        kept = torch.empty(matrix.rows if keep else 0, matrix.columns, device=self._device)
        with self.meter.measured("round", float(matrix.columns) ** 2 * matrix.rows):
            for weights in row_blocks(self._checkpoint, matrix, _BLOCK_ROWS):
                _check_weights(weights, matrix.name)
                rows = rounding.quantize(weights.to(self._device))
                if keep:
                    start = sum(len(block.values) for block in blocks)
                    kept[start : start + len(weights)] = dequantize_rows(rows, matrix_format)
                zeros = None if rows.zeros is None else rows.zeros.cpu()
                blocks.append(QuantizedRows(rows.values.cpu(), rows.scales.cpu(), zeros))
        self._rounded[matrix.name] = _join(blocks)
        self._records.append(rounding.record())
        self._report()
        return kept

    def _stored_floats(self, matrix: DecoderMatrix) -> torch.Tensor:
        weights = stacked_rows(self._checkpoint, matrix, 0, matrix.rows)
        if self._plan.formats.of(matrix.name).precision == "fp16":
            weights = weights.to(torch.float16).to(torch.float32)
        return weights.to(self._device)

    def _add(self, hessian: Hessian, index: int, inputs: torch.Tensor) -> None:
        with self.meter.measured("hessian", inputs.shape[1] ** 2 * len(inputs)):
            hessian.add(inputs, self._weights[index])

    def _hessian(self, matrix: DecoderMatrix) -> Hessian:
        return Hessian(matrix.columns, matrix.name, self._device)

    def _report(self) -> None:
        done = len(self._store.state.records) + len(self._records)
        formats = self._plan.formats
        matrices = [matrix for layer in self._layers for matrix in layer.matrices] + [self._head.lm_head]
        self._progress(STAGE, done, sum(formats.of(matrix.name).quantized for matrix in matrices))

    def _activations(self, step: int, *, saved: bool) -> Activations:
        path = self._store.activations_path(step)
        if step > len(self._layers):
            return open_activations(path, [], 1, in_memory=True, saved=False)
        return open_activations(path, self._lengths, self._config.hidden_size, in_memory=self._in_memory, saved=saved)

    def _token_weights(self) -> list[torch.Tensor]:
        pictures = sum(int(pack.is_picture.sum()) for pack in self._packs)
        counts = TokenCounts(pictures, sum(self._lengths) - pictures)
        weight = picture_token_weight(self._plan.picture_weight, counts)
        return [token_weights(pack.is_picture, weight) for pack in self._packs]

    def _fits_in_memory(self) -> bool:
        """Whether the input and the output of a layer fit into the budget beside everything else."""
        needed = resident_bytes() + working_bytes(self._config, max(self._lengths))
        if needed > self._plan.budget_bytes:
            raise BudgetError(
                f"rounding the largest matrix takes {format_bytes(needed)} of memory, more than the "
                f"{format_bytes(self._plan.budget_bytes)} of --memory: raise it, or choose --method rtn without a "
                "calibration set"
            )
        activations = 2 * sum(self._lengths) * self._config.hidden_size * ITEM_BYTES
        return needed + activations <= self._plan.budget_bytes

    def _make_meter(self) -> WorkMeter:
        tokens = sum(self._lengths)
        forward = hessian = factor = rounded = 0.0
        for parts in self._layers:
            for matrix in parts.matrices:
                size = float(matrix.rows * matrix.columns)
                forward += size * tokens * (2 if matrix is parts.gate_up else 1)
                hessian += float(matrix.columns) ** 2 * tokens
                factor += float(matrix.columns) ** 3
                rounded += size * matrix.columns
        done = self._store.state.steps / len(self._layers)
        head = self._head.lm_head
        meter = WorkMeter(
            {
                "forward": forward,
                "hessian": hessian,
                "factor": factor + float(head.columns) ** 3,
                "round": rounded + float(head.columns) ** 2 * head.rows,
            },
            self._store.control.check,
        )
        for kind, work in {"forward": forward, "hessian": hessian, "factor": factor, "round": rounded}.items():
            meter.skip(kind, work * min(1.0, done))
        return meter


def _added(total: Mapping[str, float], now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """The total plus what a meter counted between two readings."""
    return {kind: total.get(kind, 0.0) + amount - before.get(kind, 0.0) for kind, amount in now.items()}


def _join(blocks: Sequence[QuantizedRows]) -> QuantizedRows:
    zeros = [block.zeros for block in blocks if block.zeros is not None]
    return QuantizedRows(
        torch.cat([block.values for block in blocks]),
        torch.cat([block.scales for block in blocks]),
        torch.cat(zeros) if zeros else None,
    )


def _check_weights(weights: torch.Tensor, name: str) -> None:
    if not bool(torch.isfinite(weights).all()):
        raise ExportError(f"{name} holds a NaN or an infinity: the checkpoint is damaged")
