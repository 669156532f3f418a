"""Rounds a decoder layer by layer, each on what the rounded layers before it compute for a calibration set."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from valley2_edge.calibration.activations import ITEM_BYTES, Activations, open_activations
from valley2_edge.calibration.decoder_block import attend, rms_norm
from valley2_edge.calibration.packs import Pack
from valley2_edge.duration import format_duration
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import Announce, Progress
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layers import (
    MLP_ROWS,
    HeadParts,
    LayerParts,
    add_down,
    biases,
    check_finite,
    feed_forward,
    gated_rows,
    norm_weight,
    split_parts,
    stacked_rows,
)
from valley2_edge.export.decoder.parts import DecoderMatrix
from valley2_edge.export.rounding.duration_estimate import measure_rates, opening_sentence
from valley2_edge.export.rounding.exact_stream import ExactLayer, ExactStream
from valley2_edge.export.rounding.layer_store import LayerState, LayerStore
from valley2_edge.export.rounding.memory_check import BLOCK_ROWS, check_memory, working_bytes
from valley2_edge.export.rounding.work_meter import WorkMeter
from valley2_edge.export.rounding.work_plan import planned_work
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.input_drift import InputDrift
from valley2_edge.quantize.method import MatrixRecord, Method
from valley2_edge.quantize.modality import PictureWeight, TokenCounts, picture_token_weight, token_weights
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows, join_rows
from valley2_edge.runtime.core.process_memory import peak_bytes, resident_bytes

STAGE = "decoder"
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
        announce: Called with a sentence before the first layer, which says how long gptq will take, and after every
            layer, which says how long the rest will take.

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
        if plan.method.name == "gptq" and not rounder.finished:
            announce(rounder.opening_sentence())
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
        self._in_memory, self._keeps_gated = self._plan_memory()
        self._weights = self._token_weights()
        self._records: list[MatrixRecord] = []
        self._rounded: dict[str, QuantizedRows] = {}
        self._source = self._activations(store.activations_path(store.state.steps), saved=True)
        self._exact = self._exact_stream() if plan.method.follows_unrounded else None
        self.meter = self._make_meter()

    @property
    def finished(self) -> bool:
        """Whether every matrix is rounded."""
        return self._store.state.steps >= self.steps

    def opening_sentence(self) -> str:
        """Says how long the layers that are left will take."""
        done = self._store.state.steps, self.steps
        work, rates = self.meter.remaining_work(), measure_rates(self._device)
        return opening_sentence(self._config, self._packs, work, done, rates)

    def step(self) -> None:
        """Rounds one layer, or lm_head, and makes it safe on disk."""
        begin = time.perf_counter()
        before = dict(self.meter.seconds), dict(self.meter.cpu_seconds)
        number = self._store.state.steps
        self._records, self._rounded = [], {}
        if number < len(self._layers):
            targets = self._round_layer(number, self._layers[number])
        else:
            self._round_head(self._head)
            targets = []
        self._store.write_layer(number, self._rounded)
        state = self._store.state
        self._advance(targets)
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

    def _advance(self, targets: Sequence[Activations]) -> None:
        """Goes on to the outputs of a layer; the files of its inputs are closed, so that they can be removed."""
        self._source.close()
        if targets:
            self._source = targets[0]
        if self._exact is not None:
            self._exact.advance(*targets[1:])

    def _round_layer(self, number: int, parts: LayerParts) -> list[Activations]:
        """Rounds a layer; returns its output, and its output in the unrounded model if that runs as well."""
        target = self._activations(self._store.activations_path(number + 1), saved=False)
        exact = None
        if self._exact is not None:
            room = self._activations(self._store.exact_path(number + 1), saved=False)
            exact = self._exact.run(number, parts, room, self.meter)
        self._round_attention(number, parts, target, exact)
        self._round_feed_forward(number, parts, target, exact)
        target.save(self._store.activations_path(number + 1))
        if exact is None:
            return [target]
        exact.target.save(self._store.exact_path(number + 1))
        return [target, exact.target]

    def _round_attention(self, number: int, parts: LayerParts, target: Activations, exact: ExactLayer | None) -> None:
        """Rounds qkv and output, and writes the sum after attention into `target`."""
        norm = norm_weight(self._checkpoint, parts.input_norm).to(self._device)
        for index in range(len(self._packs)):
            check_finite(self._source.read(index), number, "its calibration inputs")
        exact_source = None if exact is None else exact.source
        qkv = self._round(parts.qkv, *self._moments(parts.qkv, norm, self._source, exact_source, self._weights))

        bias = biases(self._checkpoint, parts.qkv)
        hessian = self._hessian(parts.output)
        for index, pack in enumerate(self._packs):
            source = self._read(self._source, index)
            with self.meter.measured("forward", qkv.numel() * pack.rows):
                mixed = self._normed(source, norm) @ qkv.T
                if bias is not None:
                    mixed += bias.to(self._device)
                attended = attend(mixed, pack, self._config)  # (rows, q_rows)
            self._add(hessian, self._weights[index], attended)
            target.write(index, attended.cpu())
        output = self._round(parts.output, hessian)
        for index, pack in enumerate(self._packs):
            with self.meter.measured("forward", output.numel() * pack.rows):
                hidden = self._read(self._source, index) + self._read(target, index) @ output.T
            target.write(index, hidden.cpu())

    def _round_feed_forward(
        self, number: int, parts: LayerParts, target: Activations, exact: ExactLayer | None
    ) -> None:
        """Rounds gate_up and down, and turns the sum after attention in `target` into the layer's output."""
        norm = norm_weight(self._checkpoint, parts.post_attention_norm).to(self._device)
        exact_middle = None if exact is None else exact.middle
        gate_up = self._round(parts.gate_up, *self._moments(parts.gate_up, norm, target, exact_middle, self._weights))
        down, kept = self._round_down(parts.down, target, norm, gate_up)
        again = 0 if self._keeps_gated else gate_up.numel()
        for index, pack in enumerate(self._packs):
            with self.meter.measured("forward", (again + down.numel()) * pack.rows):
                hidden = self._read(target, index)
                if self._keeps_gated:
                    hidden = add_down(hidden, kept[index], down)
                    kept[index].clear()
                else:
                    hidden = feed_forward(hidden, norm, gate_up, down, self._config.rms_norm_eps)
            check_finite(hidden, number, "the calibration set")
            target.write(index, hidden.cpu())

    def _round_down(
        self, matrix: DecoderMatrix, target: Activations, norm: torch.Tensor, gate_up: torch.Tensor
    ) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        """Rounds down; returns its rounded weights and, where they are kept, its inputs in blocks for each pack."""
        hessian = self._hessian(matrix)
        kept: list[list[torch.Tensor]] = [[] for _ in self._packs]
        for index, pack in enumerate(self._packs):
            hidden, weights = self._read(target, index), self._weights[index]
            for start in range(0, pack.rows, MLP_ROWS):
                rows = slice(start, start + MLP_ROWS)
                with self.meter.measured("forward", gate_up.numel() * len(hidden[rows])):
                    gated = gated_rows(hidden[rows], norm, gate_up, self._config.rms_norm_eps)
                self._add(hessian, weights[rows], gated)
                if self._keeps_gated:
                    kept[index].append(gated)
        return self._round(matrix, hessian), kept

    def _round_head(self, parts: HeadParts) -> None:
        """Rounds lm_head on text rows only, because no answer is predicted at a picture's row."""
        norm = norm_weight(self._checkpoint, parts.norm).to(self._device)
        if not self._plan.formats.of(parts.lm_head.name).quantized:
            return
        for index in range(len(self._packs)):
            check_finite(self._source.read(index), len(self._layers), "the input of lm_head")
        exact_source = None if self._exact is None else self._exact.source
        text = [(~pack.is_picture).to(torch.float32) for pack in self._packs]
        self._round(parts.lm_head, *self._moments(parts.lm_head, norm, self._source, exact_source, text), keep=False)

    def _round(
        self, matrix: DecoderMatrix, hessian: Hessian, drift: InputDrift | None = None, *, keep: bool = True
    ) -> torch.Tensor:
        """Rounds a matrix and returns its rounded weights, (rows, columns) float32; empty unless `keep`."""
        matrix_format = self._plan.formats.of(matrix.name)
        if not matrix_format.quantized:
            return self._stored_floats(matrix)
        with self.meter.measured("factor", float(matrix.columns) ** 3):
            rounding = self._plan.method.start(matrix_format, matrix.name, hessian, drift)
        blocks: list[QuantizedRows] = []
        kept = torch.empty(matrix.rows if keep else 0, matrix.columns, device=self._device)
        for first in range(0, matrix.rows, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, matrix.rows)
            with self.meter.measured("round", float(matrix.columns) ** 2 * (last - first)):
                weights = stacked_rows(self._checkpoint, matrix, first, last)
                if not bool(torch.isfinite(weights).all()):
                    raise ExportError(f"{matrix.name} holds a NaN or an infinity: the checkpoint is damaged")
                rows = rounding.quantize(weights.to(self._device))
                if keep:
                    kept[first:last] = dequantize_rows(rows, matrix_format)
                zeros = None if rows.zeros is None else rows.zeros.cpu()
                blocks.append(QuantizedRows(rows.values.cpu(), rows.scales.cpu(), zeros))
        self._rounded[matrix.name] = join_rows(blocks)
        self._records.append(rounding.record())
        self._report()
        return kept

    def _stored_floats(self, matrix: DecoderMatrix) -> torch.Tensor:
        weights = stacked_rows(self._checkpoint, matrix, 0, matrix.rows)
        if self._plan.formats.of(matrix.name).precision == "fp16":
            weights = weights.to(torch.float16).to(torch.float32)
        return weights.to(self._device)

    def _moments(
        self,
        matrix: DecoderMatrix,
        norm: torch.Tensor,
        stream: Activations,
        exact: Activations | None,
        token_weights: Sequence[torch.Tensor],
    ) -> tuple[Hessian, InputDrift | None]:
        """Gathers the moments of a matrix that reads the residual stream behind a norm.

        Args:
            matrix: The matrix.
            norm: Weight of the RMSNorm, (hidden,) float32.
            stream: The residual stream.
            exact: The residual stream of the unrounded model; None where it does not run.
            token_weights: The weights of each pack's rows.

        Returns:
            The Hessian, and how far the inputs have drifted from the unrounded model's.
        """
        hessian = self._hessian(matrix)
        drift = None if exact is None else InputDrift(matrix.columns, matrix.name, self._device)
        for index, weights in enumerate(token_weights):
            inputs = self._normed(self._read(stream, index), norm)
            self._add(hessian, weights, inputs)
            if exact is not None and drift is not None:
                with self.meter.measured("hessian", 2.0 * inputs.shape[1] ** 2 * len(inputs)):
                    drift.add(self._normed(self._read(exact, index), norm), inputs, weights)
        return hessian, drift

    def _add(self, hessian: Hessian, weights: torch.Tensor, inputs: torch.Tensor) -> None:
        with self.meter.measured("hessian", float(inputs.shape[1] ** 2 * len(inputs))):
            hessian.add(inputs, weights)

    def _hessian(self, matrix: DecoderMatrix) -> Hessian:
        return Hessian(matrix.columns, matrix.name, self._device)

    def _read(self, activations: Activations, index: int) -> torch.Tensor:
        return activations.read(index).to(self._device)

    def _normed(self, hidden: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, norm, self._config.rms_norm_eps)

    def _report(self) -> None:
        done = len(self._store.state.records) + len(self._records)
        formats = self._plan.formats
        matrices = [matrix for layer in self._layers for matrix in layer.matrices] + [self._head.lm_head]
        self._progress(STAGE, done, sum(formats.of(matrix.name).quantized for matrix in matrices))

    def _activations(self, path: Path, *, saved: bool) -> Activations:
        lengths = [] if self.finished else self._lengths
        return open_activations(path, lengths, self._config.hidden_size, in_memory=self._in_memory, saved=saved)

    def _exact_stream(self) -> ExactStream:
        store, step = self._store, self._store.state.steps
        # Before the first layer both models have the same residual stream.
        path = store.exact_path(step) if step else store.activations_path(step)
        middle = self._activations(store.directory / "exact-middle.bin", saved=False)
        return ExactStream(self._checkpoint, self._packs, self._activations(path, saved=True), middle, self._device)

    def _token_weights(self) -> list[torch.Tensor]:
        pictures = sum(int(pack.is_picture.sum()) for pack in self._packs)
        counts = TokenCounts(pictures, sum(self._lengths) - pictures)
        weight = picture_token_weight(self._plan.picture_weight, counts)
        return [token_weights(pack.is_picture, weight) for pack in self._packs]

    def _plan_memory(self) -> tuple[bool, bool]:
        """Whether the budget has room for the input and the output of a layer, and for the inputs of down as well.

        Where the inputs of down do not fit, gate_up is computed once for the Hessian and once for the layer's output,
        with the same bits. On a GPU they are not kept: its memory is not in the budget.
        """
        needed = resident_bytes() + working_bytes(self._config, max(self._lengths))
        check_memory(needed, self._plan.budget_bytes)
        tokens, follows = sum(self._lengths), self._plan.method.follows_unrounded
        activations = (5 if follows else 2) * tokens * self._config.hidden_size * ITEM_BYTES
        gated = tokens * self._config.intermediate_size * ITEM_BYTES
        left = self._plan.budget_bytes - needed
        return activations <= left, activations + gated <= left and self._device.type == "cpu"

    def _make_meter(self) -> WorkMeter:
        layers, head = planned_work(
            self._config,
            sum(self._lengths),
            follows_unrounded=self._plan.method.follows_unrounded,
            keeps_gated=self._keeps_gated,
        )
        meter = WorkMeter(
            {kind: work + head.get(kind, 0.0) for kind, work in layers.items()}, self._store.control.check
        )
        done = min(1.0, self._store.state.steps / len(self._layers))
        for kind, work in layers.items():
            meter.skip(kind, work * done)
        return meter


def _added(total: Mapping[str, float], now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """The total plus what a meter counted between two readings."""
    return {kind: total.get(kind, 0.0) + amount - before.get(kind, 0.0) for kind, amount in now.items()}
