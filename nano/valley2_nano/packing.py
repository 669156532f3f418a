"""Puts many dialogues into one flat sequence without padding, in which pictures and prompts are shared by their turns.

Each turn sees the common prefix of its dialogue and itself, at the positions that it would have alone: the result
equals that of separate samples (Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", with a
shared prefix in addition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valley2_edge.runtime.core.prompt import PICTURE_ID
from valley2_nano.decoder import Span
from valley2_nano.samples import PictureInput, Sample, TurnInput, shared_prefix

TURN_WEIGHT_EXPONENT = 0.5
"""A turn counts as the number of its answer's tokens to this power, so that single letters do not drown."""


@dataclass(frozen=True)
class PackedBatch:
    """One step's dialogues."""

    tile_patches: Tensor
    """(tiles * patches of a tile, 3 * patch * patch) int8, the 8-bit values less 128; the last tiles may be padding."""
    eagle_patches: Tensor
    """(patches, 588) int8, pictures with equally many patches side by side, then padding."""
    eagle_positions: Tensor
    """(patches, 2) int16."""
    eagle_groups: tuple[tuple[int, int], ...]
    """(pictures, patches of each), in order."""
    text: Tensor
    """(text tokens,) int64."""
    order: Tensor
    """(rows,) int64: which of [text tokens, tiles' tokens, Eagle tokens] stands in each row, none twice; the rows after
    those of the dialogues are padding, text that nothing looks at."""
    positions: Tensor
    """(rows,) int64."""
    spans: tuple[Span, ...]
    target_rows: Tensor
    """(targets,) int64: rows whose logits predict the targets."""
    targets: Tensor
    """(targets,) int64."""
    weights: Tensor
    """(targets,) float32; they sum to 1."""
    answer_lengths: Tensor
    """(targets,) int64: tokens of the answer that a target belongs to."""
    turn_ends: Tensor
    """(turns,) int64: the last row of each turn; it predicts the first token of an answer that was not given."""

    def to(self, device: torch.device) -> PackedBatch:
        """The same on another device."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return PackedBatch(**(values | tensors))


@dataclass
class _Rows:
    """The flat sequence under construction; vision rows are numbered within their own tables at first."""

    text: list[int]
    order: list[NDArray[np.int64]]
    positions: list[NDArray[np.int64]]
    count: int = 0

    def add(self, order: NDArray[np.int64], position: int) -> None:
        self.order.append(order)
        self.positions.append(np.arange(position, position + len(order)))
        self.count += len(order)


_SIGLIP_TABLE, _EAGLE_TABLE = 1 << 40, 1 << 41

# Everything is padded to a few sizes: a matrix product's kernel is made anew for every shape.
_ROW_BUCKET = 256
_PATCH_BUCKET = 256
_TILE_BUCKET = 4


def pack(
    samples: Sequence[Sample], tokens_per_tile: int, patches_per_tile: int, *, bucketed: bool = True
) -> PackedBatch:
    """Packs dialogues.

    Args:
        samples: At least one.
        tokens_per_tile: The projector's.
        patches_per_tile: SigLIP's.
        bucketed: Fill rows, patches and tiles up to one of a few sizes.
    """
    pictures = [picture for sample in samples for picture in sample.pictures]
    tile_starts = _starts([len(picture.tile_patches) // patches_per_tile * tokens_per_tile for picture in pictures])
    eagle_order = sorted(range(len(pictures)), key=lambda index: len(pictures[index].eagle_patches))
    eagle_starts = dict(
        zip(eagle_order, _starts([len(pictures[i].eagle_patches) // 4 for i in eagle_order]), strict=False)
    )
    rows, spans, targets = _Rows([], [], []), [], _Targets([], [], [], [])
    number = 0
    for sample in samples:
        vision = [
            np.concatenate([
                picture.stitched + tile_starts[number + index] + _SIGLIP_TABLE,
                np.arange(len(picture.eagle_patches) // 4) + eagle_starts[number + index] + _EAGLE_TABLE,
            ])
            for index, picture in enumerate(sample.pictures)
        ]  # fmt: skip
        number += len(sample.pictures)
        spans.append(_add_sample(rows, targets, sample, vision))
    rows.add(_text(rows, [0] * (-rows.count % (_ROW_BUCKET if bucketed else 1))), 0)
    order = np.concatenate(rows.order)
    patch_bucket, tile_bucket = (_PATCH_BUCKET, _TILE_BUCKET) if bucketed else (1, 1)
    arrays = _vision_arrays(pictures, eagle_order, tile_bucket * patches_per_tile, patch_bucket)
    tile_tokens = len(arrays["tile_patches"]) // patches_per_tile * tokens_per_tile
    eagle, siglip = order >= _EAGLE_TABLE, (order >= _SIGLIP_TABLE) & (order < _EAGLE_TABLE)
    order[siglip] += len(rows.text) - _SIGLIP_TABLE
    order[eagle] += len(rows.text) + tile_tokens - _EAGLE_TABLE
    weights = np.concatenate(targets.weights) if targets.weights else np.zeros(0)
    arrays |= {
        "text": np.array(rows.text, np.int64),
        "order": order,
        "positions": np.concatenate(rows.positions),
        "target_rows": np.array(targets.rows, np.int64),
        "targets": np.array(targets.ids, np.int64),
        "weights": (weights / max(weights.sum(), 1e-9)).astype(np.float32),
        "answer_lengths": np.concatenate([np.full(len(part), len(part)) for part in targets.weights] or [np.zeros(0)]),
        "turn_ends": np.array(targets.turn_ends, np.int64),
    }
    return PackedBatch(
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
        eagle_groups=_groups([len(pictures[index].eagle_patches) for index in eagle_order]),
        spans=tuple(spans),
    )


@dataclass
class _Targets:
    rows: list[int]
    ids: list[int]
    weights: list[NDArray[np.float64]]
    turn_ends: list[int]


def _add_sample(rows: _Rows, targets: _Targets, sample: Sample, vision: Sequence[NDArray[np.int64]]) -> Span:
    start = rows.count
    common = shared_prefix(sample.turns)
    # A prefix holds all pictures or none of them would be shared
    places = sum(identifier == PICTURE_ID for identifier in sample.turns[0].prompt[:common])
    if places != len(vision):
        raise ValueError(f"A dialogue with {len(vision)} pictures has {places} places for them before its questions.")
    position = 0
    pictures = iter(vision)
    for run in _runs(sample.turns[0].prompt[:common]):
        order = next(pictures) if run is None else _text(rows, run)
        rows.add(order, position)
        position += len(order)
    prefix = rows.count - start
    lengths = []
    for turn in sample.turns:
        begin = rows.count
        suffix = turn.prompt[common:]
        rows.add(_text(rows, [*suffix, *turn.answer[:-1]]), position)
        lengths.append(rows.count - begin)
        targets.turn_ends.append(rows.count - 1)
        _add_targets(targets, turn, begin + len(suffix) - 1)
    return Span(start, prefix, tuple(lengths))


def _add_targets(targets: _Targets, turn: TurnInput, first_row: int) -> None:
    count = len(turn.answer)
    if count == 0:
        return
    targets.rows += range(first_row, first_row + count)
    targets.ids += turn.answer
    targets.weights.append(np.full(count, count ** (TURN_WEIGHT_EXPONENT - 1)))


def _text(rows: _Rows, ids: Sequence[int]) -> NDArray[np.int64]:
    first = len(rows.text)
    rows.text += ids
    return np.arange(first, len(rows.text))


def _runs(ids: Sequence[int]) -> list[list[int] | None]:
    """Runs of text, and None for every picture."""
    runs: list[list[int] | None] = []
    for identifier in ids:
        if identifier == PICTURE_ID:
            runs.append(None)
        elif runs and runs[-1] is not None:
            runs[-1].append(identifier)
        else:
            runs.append([identifier])
    return runs


def _starts(lengths: Sequence[int]) -> list[int]:
    """Where each part begins when all stand behind one another, and where the last one ends."""
    return [0, *np.cumsum(lengths).tolist()]


def _groups(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    values, counts = np.unique(np.array(lengths, np.int64), return_counts=True)
    return tuple((int(count), int(value)) for value, count in zip(values, counts, strict=True) if value)


def _vision_arrays(
    pictures: Sequence[PictureInput], eagle_order: Sequence[int], tile_rows: int, patch_bucket: int
) -> dict[str, NDArray[np.generic]]:
    if not pictures:
        return {
            "tile_patches": np.zeros((0, 0), np.int8),
            "eagle_patches": np.zeros((0, 0), np.int8),
            "eagle_positions": np.zeros((0, 2), np.int16),
        }
    return {
        "tile_patches": _padded([picture.tile_patches for picture in pictures], tile_rows),
        "eagle_patches": _padded([pictures[index].eagle_patches for index in eagle_order], patch_bucket),
        "eagle_positions": _padded([pictures[index].eagle_positions for index in eagle_order], patch_bucket),
    }


def _padded(parts: Sequence[NDArray[np.generic]], bucket: int) -> NDArray[np.generic]:
    missing = -sum(map(len, parts)) % bucket
    return np.concatenate([*parts, np.zeros((missing, parts[0].shape[1]), parts[0].dtype)])
