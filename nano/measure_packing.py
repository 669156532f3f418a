"""Measures what packing saves: turns one at a time, padded, packed, and packed with shared prefixes.

    python nano/measure_packing.py --dialogues 8

A turn is a question about pictures with its answer. Apart from the last form every turn carries its own pictures, as in
an ordinary data set. Times are those of forward and backward passes without the optimiser, the processor's own and not
the clock's, so that neighbours on a shared machine disturb little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn import functional

from valley2_edge.eval.questions.dialogue import training_dialogue
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_nano.model import Valley2Nano
from valley2_nano.packing import PackedBatch, pack
from valley2_nano.run_files import prepare_tokenizer
from valley2_nano.samples import Sample, SampleMaker

FILLER = 0
"""A token that padding repeats."""


def main() -> None:
    """Measures as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        config = prepare_tokenizer(Path(directory))
        maker = SampleMaker(Tokenizer(Path(directory) / "tokenizer"), config)
    model = Valley2Nano(config)
    drawn = [training_dialogue(0, index, "broad") for index in range(arguments.dialogues)]
    dialogues = [maker.sample(one.pictures, one.turns, video=one.video) for one in drawn]
    single = [Sample(dialogue.pictures, (turn,)) for dialogue in dialogues for turn in dialogue.turns]
    tokens, patches = config.projector.tokens_per_side**2, config.siglip.patches_per_side**2

    def packed(samples: Sequence[Sample]) -> list[PackedBatch]:
        # A sample alone is not filled up: it has no others to share the cost with
        return [pack(samples, tokens, patches, bucketed=len(samples) > 1)]

    forms: dict[str, Callable[[], list[PackedBatch]]] = {
        "one at a time": lambda: [batch for sample in single for batch in packed([sample])],
        "padded to the longest": lambda: packed(_padded(single)),
        "packed": lambda: packed(single),
        "packed, prefix shared": lambda: packed(dialogues),
    }
    print(f"{'':<24}{'rows':>8}{'turns/s':>10}{'speed-up':>10}")
    slowest = None
    for name, make in forms.items():
        batches = make()
        seconds = min(_measure(model, batches) for _ in range(arguments.rounds))
        slowest = slowest or seconds
        rows = sum(len(batch.order) for batch in batches)
        print(f"{name:<24}{rows:>8}{len(single) / seconds:>10.1f}{slowest / seconds:>10.2f}", flush=True)


def _padded(samples: Sequence[Sample]) -> list[Sample]:
    """Every sample filled up to the rows of the longest."""
    rows = [_rows(sample) for sample in samples]
    filled = []
    for sample, count in zip(samples, rows, strict=True):
        (turn,) = sample.turns
        filler = (FILLER,) * (max(rows) - count)
        filled.append(Sample(sample.pictures, (replace(turn, prompt=turn.prompt + filler),)))
    return filled


def _rows(sample: Sample) -> int:
    vision = sum(len(picture.stitched) + len(picture.eagle_patches) // 4 for picture in sample.pictures)
    return vision + sum(len(turn.prompt) + len(turn.answer) for turn in sample.turns)


def _measure(model: Valley2Nano, batches: Sequence[PackedBatch]) -> float:
    begin = time.process_time()
    for batch in batches:
        losses = functional.cross_entropy(model(batch, torch.bfloat16), batch.targets, reduction="none")
        torch.autograd.backward((losses * batch.weights).sum())
    model.zero_grad()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
