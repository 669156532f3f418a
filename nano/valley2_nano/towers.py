"""What stands where on a card, as targets for the vision towers: they learn to see before the decoder learns to speak.

The released model's towers were trained before it, too: on captions (SigLIP) and on documents (Qwen2-VL's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from valley2_edge.eval.questions.card import Mark, draw_card, random_style
from valley2_edge.eval.questions.product import BADGES, COLOURS, KINDS, format_price, names, prices, random_product
from valley2_edge.eval.questions.single import FORM_SHARES, FORMS
from valley2_nano.model import Switches, Valley2Nano
from valley2_nano.packing import PackedBatch, pack
from valley2_nano.samples import Sample, SampleMaker

POSITIVE_WEIGHT = 6.0
"""How much a label that is there weighs beside one that is not: most places hold nothing."""
_PATCHES_OF_TOKEN = 4


def label_names() -> tuple[str, ...]:
    """All that a place can hold: characters, stars, kinds and colours of products."""
    texts = [*names("training"), *map(format_price, prices("training")), *BADGES]
    return (*sorted(set("".join(texts))), "star", "no star", *KINDS, *COLOURS)


_NUMBERS = {name: number for number, name in enumerate(label_names())}
LABELS = len(_NUMBERS)


@dataclass(frozen=True)
class TowerBatch:
    """Packed pictures and what their tokens shall tell."""

    packed: PackedBatch
    siglip_rows: Tensor
    """(SigLIP tokens,) int64: rows of the packed sequence."""
    siglip_labels: Tensor
    """(SigLIP tokens, labels) float32, 0 or 1."""
    eagle_rows: Tensor
    eagle_labels: Tensor
    """(Eagle tokens, 4 * labels): of each patch of the token."""


class TowerHeads(nn.Module):
    """Reads the labels off the tokens; left behind after the training of the towers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.siglip = nn.Linear(size, LABELS)
        self.eagle = nn.Linear(size, _PATCHES_OF_TOKEN * LABELS)
        for head in (self.siglip, self.eagle):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, -3.0)


def tower_batch(maker: SampleMaker, seed: int, first: int, count: int, side: int, patches: int) -> TowerBatch:
    """Draws cards and finds what stands under each token.

    Args:
        maker: With untiled pictures: one global view each.
        seed: Of the whole training.
        first: Index of the first card.
        count: Cards.
        side: SigLIP tokens along one side of a tile.
        patches: SigLIP patches of a tile.
    """
    samples: list[Sample] = []
    siglip, eagle = [], []
    for index in range(first, first + count):
        random = Random(f"towers {seed} {index}")
        form = random.choices(FORMS, FORM_SHARES)[0]
        marks: list[Mark] = []
        card = draw_card(random_product(random, "training", full=form != "tiny"), random_style(random, form), marks)
        sample = maker.sample([card], [("?", "!")])
        rows, columns = (int(most) + 1 for most in sample.pictures[0].eagle_positions.max(0))
        siglip.append(_labels(marks, card.size, side, side).reshape(side * side, LABELS))
        grid = _labels(marks, card.size, rows, columns).reshape(rows // 2, 2, columns // 2, 2, LABELS)
        eagle.append(grid.transpose(0, 2, 1, 3, 4).reshape(-1, _PATCHES_OF_TOKEN * LABELS))
        samples.append(sample)
    packed = pack(samples, side * side, patches)
    # A picture's tokens end one control token and the question's own before the prefix does
    siglip_rows, eagle_rows = [], []
    for span, near, far in zip(packed.spans, siglip, eagle, strict=True):
        end = span.start + _picture_end(packed, span.start, span.prefix)
        eagle_rows.append(np.arange(end - len(far), end))
        siglip_rows.append(np.arange(end - len(far) - len(near), end - len(far)))
    return TowerBatch(
        packed,
        torch.from_numpy(np.concatenate(siglip_rows)),
        torch.from_numpy(np.concatenate(siglip)),
        torch.from_numpy(np.concatenate(eagle_rows)),
        torch.from_numpy(np.concatenate(eagle)),
    )


def tower_losses(model: Valley2Nano, heads: TowerHeads, batch: TowerBatch, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the labels, for SigLIP and for Eagle, summed over labels and averaged over places."""
    table = model.tokens(batch.packed, kind, Switches()).float()
    rows = batch.packed.order
    siglip = heads.siglip(table[rows[batch.siglip_rows]])
    eagle = heads.eagle(table[rows[batch.eagle_rows]])
    return _loss(siglip, batch.siglip_labels, 1), _loss(eagle, batch.eagle_labels, _PATCHES_OF_TOKEN)


def recall(scores: Tensor, labels: Tensor) -> float:
    """Share of the labels that are told from their absence."""
    return float(((scores > 0) & (labels > 0)).sum() / labels.sum())


def _loss(scores: Tensor, labels: Tensor, places: int) -> Tensor:
    weight = torch.tensor(POSITIVE_WEIGHT)
    total = functional.binary_cross_entropy_with_logits(scores, labels, pos_weight=weight, reduction="sum")
    return total / (len(scores) * places)


def _picture_end(packed: PackedBatch, start: int, prefix: int) -> int:
    """Rows from the beginning of a prefix to the end of its picture: what follows is text."""
    text = len(packed.text)
    order = packed.order[start : start + prefix]
    return int(torch.nonzero(order >= text)[-1]) + 1


def _labels(marks: Sequence[Mark], size: tuple[int, int], rows: int, columns: int) -> NDArray[np.float32]:
    """(rows, columns, labels): a character counts where its middle is, a product all over its box."""
    labels = np.zeros((rows, columns, LABELS), np.float32)
    across, down = columns / size[0], rows / size[1]
    for mark in marks:
        left, top, right, bottom = mark.box
        column = min(columns - 1, max(0, int((left + right) / 2 * across)))
        row = min(rows - 1, max(0, int((top + bottom) / 2 * down)))
        numbers = [_NUMBERS[label] for label in mark.labels]
        labels[row, column, numbers] = 1
        if mark.labels[0] in KINDS:
            inside_rows = slice(max(0, round(top * down)), max(0, round(bottom * down)))
            inside_columns = slice(max(0, round(left * across)), max(0, round(right * across)))
            labels[inside_rows, inside_columns, numbers] = 1
    return labels
