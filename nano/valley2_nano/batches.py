"""Packed batches of generated dialogues, made ahead of time in a process of their own."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty
from typing import Literal

import torch

from valley2_edge.config import ModelConfig
from valley2_edge.eval.questions.dialogue import training_dialogue
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_nano.packing import PackedBatch, pack
from valley2_nano.samples import SampleMaker

Stage = Literal["broad", "annealing"]
AHEAD = 3
"""The most batches that are made before they are needed."""
PATIENCE_SECONDS = 5.0
"""Seconds between two looks at whether the process is alive."""
NICENESS = 5
"""How much the process that makes batches gives way to the training, as `os.nice` counts it."""


@dataclass(frozen=True)
class BatchPlan:
    """Which dialogues the batches of one training process hold."""

    tokenizer: Path
    config: ModelConfig
    seed: int
    size: int
    """Dialogues of a batch."""
    first: int
    """Index of the first dialogue."""
    stride: int
    """Dialogues from the beginning of a batch to that of the next one; those between are other processes'."""
    annealing_from: int | None
    """Index of the dialogue at which the annealing stage begins; None: when told."""


@dataclass(frozen=True)
class StagedBatch:
    """A batch and where its dialogues come from."""

    batch: PackedBatch
    stage: Stage


def batches(plan: BatchPlan, annealing: Connection | None = None) -> Iterator[StagedBatch]:
    """Makes batches without end, a pure function of the plan and of when the annealing stage is announced.

    Args:
        plan: Which dialogues.
        annealing: Has something to read when the annealing stage begins.
    """
    maker = SampleMaker(Tokenizer(plan.tokenizer), plan.config)
    tokens, patches = plan.config.projector.tokens_per_side**2, plan.config.siglip.patches_per_side**2
    index = plan.first
    stage: Stage = "broad"
    while True:
        if (plan.annealing_from is not None and index >= plan.annealing_from) or (annealing and annealing.poll()):
            stage = "annealing"
        dialogues = [training_dialogue(plan.seed, index + i, stage) for i in range(plan.size)]
        samples = [maker.sample(one.pictures, one.turns, video=one.video) for one in dialogues]
        yield StagedBatch(pack(samples, tokens, patches), stage)
        index += plan.stride


class BatchProcess:
    """Batches from a process that works ahead.

    Args:
        plan: Which dialogues.
    """

    def __init__(self, plan: BatchPlan) -> None:
        context = get_context("spawn")
        told, self._tell = context.Pipe(duplex=False)
        self._queue = context.Queue(AHEAD)
        self._process = context.Process(target=_produce, args=(plan, self._queue, told), daemon=True)
        self._process.start()

    def next(self) -> StagedBatch:
        """Waits for the next batch.

        Raises:
            RuntimeError: The process failed; its traceback is on stderr.
        """
        while True:
            try:
                batch: StagedBatch = pickle.loads(self._queue.get(timeout=PATIENCE_SECONDS))
                return batch
            except Empty:
                if not self._process.is_alive():
                    raise RuntimeError("The process that makes the batches has ended.") from None

    def begin_annealing(self) -> None:
        """Makes dialogues of the annealing stage from the next batch on."""
        self._tell.send(True)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def _produce(plan: BatchPlan, target: object, told: Connection) -> None:
    os.nice(NICENESS)
    torch.set_num_threads(1)
    for batch in batches(plan, told):
        target.put(pickle.dumps(batch, protocol=5))  # type: ignore[attr-defined]
