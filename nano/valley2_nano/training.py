"""The training loop of one process; several share the work and exchange gradients once a step."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from valley2_edge.config import ModelConfig
from valley2_edge.eval.questions.dialogue import COMPARING_FROM
from valley2_nano.batches import BatchPlan, BatchProcess, StagedBatch
from valley2_nano.checkpoint import read_checkpoint, write_checkpoint
from valley2_nano.model import Valley2Nano
from valley2_nano.optimizer import TOWERS, Optimizer
from valley2_nano.packing import PackedBatch
from valley2_nano.schedule import Schedule

LOG_STEPS = 20
STATE_SECONDS = 120.0
LARGEST_GRADIENT = 1.0
WORD_TOKENS = 2
"""A word and `<|im_end|>`: the answers that the log counts apart."""
RENDEZVOUS_SECONDS = 600


@dataclass(frozen=True)
class TrainingOptions:
    """One run of the training."""

    output: Path
    config: ModelConfig
    schedule: Schedule
    seed: int
    batch: int
    """Dialogues of a step, over all processes."""
    processes: int
    threads: int
    device: str
    muon: bool
    weight_decay: float
    tower_factor: float
    """Share of the learning rate for the vision towers, which were trained before."""
    compiled: bool
    """Fuse elementwise work with torch.compile."""
    resume: bool
    initial: Path | None = None
    """A checkpoint that a new run begins from; None: the towers alone are trained."""
    first_dialogue: int = 0
    """Number of a new run's first dialogue; the phases go by the dialogues' numbers."""

    @property
    def tokenizer(self) -> Path:
        """Directory of the tokenizer's files."""
        return self.output / "tokenizer"

    @property
    def state(self) -> Path:
        """The state that `resume` goes on from."""
        return self.output / "state.pt"

    @property
    def towers(self) -> Path:
        """Vision towers that were trained before; a new run begins from them."""
        return self.output / "towers.pt"


def train(rank: int, options: TrainingOptions) -> None:
    """Trains in one of the processes, until the schedule ends.

    Args:
        rank: Number of the process; the first one writes log, states and checkpoint.
        options: The same in all processes.
    """
    torch.set_num_threads(options.threads)
    if options.processes > 1:
        store = f"file://{(options.output / 'rendezvous').absolute()}"
        wait = timedelta(seconds=RENDEZVOUS_SECONDS)
        distributed.init_process_group("gloo", store, rank=rank, world_size=options.processes, timeout=wait)
    run = _Run(rank, options)
    try:
        run.run()
    finally:
        run.source.close()
        if options.processes > 1:
            distributed.destroy_process_group()


class _Run:
    def __init__(self, rank: int, options: TrainingOptions) -> None:
        self.rank, self.options = rank, options
        self.device = torch.device(options.device)
        torch.manual_seed(options.seed)
        self.model = Valley2Nano(options.config).to(self.device)
        self.optimizer = Optimizer(
            self.model, muon=options.muon, weight_decay=options.weight_decay, tower_factor=options.tower_factor
        )
        self.step, self.index, self.minutes = 0, options.first_dialogue, 0.0
        self.annealing, self.frozen = False, False
        if options.resume:
            self._load()
        elif options.initial is not None:
            self.model.load_state_dict(read_checkpoint(options.initial).state_dict())
        else:
            towers = torch.load(options.towers, map_location=self.device, weights_only=True)
            self.model.load_state_dict(self.model.state_dict() | towers)
        if options.compiled:
            self.model.compile_parts()
        self.source = self._source()
        self.log = _Log(options.output / "log.jsonl") if rank == 0 else None
        self.saved = time.monotonic()

    def run(self) -> None:
        schedule = self.options.schedule
        progress = schedule.progress(self.step, self.minutes)
        begin = time.monotonic()
        while progress < 1:
            if schedule.annealing(progress) and not self.annealing:
                self._begin_annealing()
            self._freeze(not self.annealing and self.index >= COMPARING_FROM)
            waited = time.monotonic()
            staged = self.source.next()
            waited = time.monotonic() - waited
            batch = staged.batch.to(self.device)
            losses = self._gradients(batch)
            now = time.monotonic()
            # The first process's clock decides for all, so that all take the same steps
            elapsed, *sums = self._exchange([(now - begin) / 60 if self.rank == 0 else 0.0, *losses])
            begin = now
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
            rate = schedule.rate_at(self.step, progress)
            self.optimizer.step(rate)
            self.model.zero_grad()
            self.step += 1
            self.index += self.options.batch
            self.minutes += elapsed
            progress = schedule.progress(self.step, self.minutes)
            if self.log is not None:
                self._note(staged, sums, waited, elapsed, rate, float(norm))
                if time.monotonic() - self.saved > STATE_SECONDS or progress >= 1:
                    self._save()

    def _source(self) -> BatchProcess:
        options, schedule = self.options, self.options.schedule
        size = options.batch // options.processes
        boundary = None
        if schedule.steps:
            boundary = next(s for s in range(schedule.steps + 1) if schedule.annealing(schedule.progress(s, 0)))
            boundary = boundary * options.batch + options.first_dialogue
        first = self.index + self.rank * size
        plan = BatchPlan(options.tokenizer, options.config, options.seed, size, first, options.batch, boundary)
        source = BatchProcess(plan)
        if self.annealing:
            source.begin_annealing()
        return source

    def _begin_annealing(self) -> None:
        self.annealing = True
        if self.options.schedule.steps is None:
            self.source.begin_annealing()
        if self.rank == 0:
            # From here the broad stage can be prolonged
            _write_state(self.options.output / "state-broad.pt", self._state())

    def _freeze(self, frozen: bool) -> None:
        """The towers rest while pictures are compared: what is learned then is the decoder's, and steps are faster."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for name, value in self.model.named_parameters():
            if name.startswith(TOWERS):
                value.requires_grad_(not frozen)
                value.grad = None

    def _gradients(self, batch: PackedBatch) -> list[float]:
        """Adds the gradients; [loss, then loss, right ones and count of single words and of longer answers, rows]."""
        logits = self.model(batch, torch.bfloat16)
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")  # (targets,)
        loss = (losses * batch.weights).sum()
        torch.autograd.backward(loss)
        with torch.no_grad():
            first = torch.ones_like(batch.targets, dtype=torch.bool)
            first[1:] = batch.target_rows[1:] != batch.target_rows[:-1] + 1
            words = (batch.answer_lengths == WORD_TOKENS) & first
            others = batch.answer_lengths != WORD_TOKENS
            right = (logits.argmax(-1) == batch.targets).float()
            values = [loss]
            for kind in (words, others):
                values += [losses[kind].sum(), right[kind].sum(), kind.sum()]
            return [*(float(value) for value in values), float(len(batch.order))]

    def _exchange(self, numbers: list[float]) -> list[float]:
        """Averages the gradients over the processes and sums the numbers."""
        if self.options.processes == 1:
            return numbers
        gradients = [value.grad for value in self.model.parameters() if value.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(numbers)])
        distributed.all_reduce(flat)
        parts: tuple[Tensor, ...] = torch.split(flat[: -len(numbers)], [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient)).div_(self.options.processes)
        return [float(number) for number in flat[-len(numbers) :]]

    def _note(
        self, staged: StagedBatch, sums: list[float], waited: float, minutes: float, rate: float, norm: float
    ) -> None:
        assert self.log is not None
        self.log.add(sums, waited, minutes, norm)
        if self.step % LOG_STEPS == 0:
            self.log.write(self.step, staged.stage, self.minutes, rate, self.options)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state(), "step": self.step,
            "index": self.index, "minutes": self.minutes, "annealing": self.annealing,
        }  # fmt: skip

    def _save(self) -> None:
        _write_state(self.options.state, self._state())
        write_checkpoint(self.options.output / "checkpoint", self.model, self.options.tokenizer)
        self.saved = time.monotonic()

    def _load(self) -> None:
        state = torch.load(self.options.state, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load(state["optimizer"])
        self.step, self.index, self.minutes = state["step"], state["index"], state["minutes"]
        # A longer schedule takes a finished run back into the broad stage
        self.annealing = self.options.schedule.annealing(self.options.schedule.progress(self.step, self.minutes))


class _Log:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()

    def _reset(self) -> None:
        self.sums: list[float] = []
        self.waited, self.minutes, self.norm, self.steps = 0.0, 0.0, 0.0, 0

    def add(self, sums: list[float], waited: float, minutes: float, norm: float) -> None:
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)] if self.sums else sums
        self.waited += waited
        self.minutes += minutes
        self.norm += norm
        self.steps += 1

    def write(self, step: int, stage: str, minutes: float, rate: float, options: TrainingOptions) -> None:
        loss, word_loss, word_right, words, other_loss, other_right, others, rows = self.sums
        seconds = self.minutes * 60
        line = {
            "step": step,
            "stage": stage,
            "minutes": round(minutes, 3),
            "loss": round(loss / self.steps / options.processes, 4),
            "word_loss": round(word_loss / max(words, 1), 4),
            "word_accuracy": round(word_right / max(words, 1), 4),
            "text_loss": round(other_loss / max(others, 1), 4),
            "text_accuracy": round(other_right / max(others, 1), 4),
            "rate": rate,
            "gradient": round(self.norm / self.steps, 3),
            "dialogues_per_second": round(options.batch * self.steps / seconds, 2),
            "rows_per_second": round(rows / seconds),
            "waited_share": round(self.waited / seconds, 3),
        }
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._reset()


def _write_state(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def options_record(options: TrainingOptions) -> dict[str, Any]:
    """The options for the record beside the log."""
    record = asdict(options)
    record["config"] = options.config.model_dump()
    record["output"] = options.output.name
    record["initial"] = options.initial.name if options.initial else None
    return record
