"""A run that is interrupted and resumed ends with the weights of one that is not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from valley2_nano import training
from valley2_nano.batches import BatchPlan, StagedBatch, batches
from valley2_nano.checkpoint import checkpoint_config, write_checkpoint
from valley2_nano.model import Valley2Nano
from valley2_nano.optimizer import TOWERS
from valley2_nano.run_files import copy_tokenizer
from valley2_nano.schedule import Schedule
from valley2_nano.training import TrainingOptions, train

pytestmark = pytest.mark.slow


class BatchesHere:
    """Batches made in this process: starting another takes longer than the whole test."""

    def __init__(self, plan: BatchPlan) -> None:
        self._batches = batches(plan)

    def next(self) -> StagedBatch:
        return next(self._batches)

    def begin_annealing(self) -> None:
        """The plan of a run by steps says when."""

    def close(self) -> None:
        """There is no process."""


@pytest.fixture
def options(
    tmp_path: Path, model: Valley2Nano, tokenizer_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainingOptions:
    monkeypatch.setattr(training, "BatchProcess", BatchesHere)
    monkeypatch.setattr(training, "LOG_STEPS", 2)
    threads = torch.get_num_threads()
    output = tmp_path / "run"
    shutil.copytree(tokenizer_directory, output / "tokenizer")
    torch.save(
        {name: value for name, value in model.state_dict().items() if name.startswith(TOWERS)}, output / "towers.pt"
    )
    schedule = Schedule(rate=1e-3, warmup_steps=2, annealing_share=0.5, minutes=None, steps=4)
    return TrainingOptions(
        output=output, config=model.config, schedule=schedule, seed=0, batch=2, processes=1, threads=threads,
        device="cpu", muon=True, weight_decay=0.01, tower_factor=1.0, compiled=False, resume=False,
    )  # fmt: skip


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoint" / "model.safetensors")


def test_a_resumed_run_equals_one_without_interruption(
    options: TrainingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(0, options)
    whole = weights(options.output)
    lines = [json.loads(line) for line in (options.output / "log.jsonl").read_text("utf-8").splitlines()]
    assert [(line["step"], line["stage"]) for line in lines] == [(2, "broad"), (4, "annealing")]

    monkeypatch.setattr(training, "STATE_SECONDS", 0.0)

    class Interrupted(BatchesHere):
        left = 3

        def next(self) -> StagedBatch:
            if not Interrupted.left:
                raise KeyboardInterrupt
            Interrupted.left -= 1
            return super().next()

    monkeypatch.setattr(training, "BatchProcess", Interrupted)
    other = replace(options, output=options.output.with_name("other"))
    shutil.copytree(options.output / "tokenizer", other.output / "tokenizer")
    shutil.copyfile(options.towers, other.towers)
    with pytest.raises(KeyboardInterrupt):
        train(0, other)
    monkeypatch.setattr(training, "BatchProcess", BatchesHere)
    train(0, replace(other, resume=True))
    resumed = weights(other.output)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_batches_are_the_same_for_any_number_of_processes(options: TrainingOptions) -> None:
    plan = BatchPlan(options.tokenizer, options.config, 0, 2, 4, 4, None)
    half = replace(plan, size=1)
    whole = next(batches(plan)).batch
    parts = [next(batches(replace(half, first=first))).batch for first in (4, 5)]
    targets = torch.cat([part.targets for part in parts])
    assert torch.equal(whole.targets, targets)


def test_a_run_can_begin_from_a_checkpoint(
    options: TrainingOptions, model: Valley2Nano, tokenizer_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []

    class Noted(BatchesHere):
        def __init__(self, plan: BatchPlan) -> None:
            firsts.append(plan.first)
            super().__init__(plan)

    monkeypatch.setattr(training, "BatchProcess", Noted)
    initial = options.output.with_name("initial")
    write_checkpoint(initial, model, tokenizer_directory)
    options.towers.unlink()
    # A rate of zero changes nothing
    resting = replace(options.schedule, rate=0.0, steps=1)
    train(0, replace(options, schedule=resting, initial=initial, first_dialogue=6))
    began, ended = load_file(initial / "model.safetensors"), weights(options.output)
    assert firsts == [6]
    assert began.keys() == ended.keys()
    assert all(torch.equal(began[name], tensor) for name, tensor in ended.items())


def test_a_run_takes_the_tokenizer_of_its_checkpoint(
    tmp_path: Path, model: Valley2Nano, tokenizer_directory: Path
) -> None:
    write_checkpoint(tmp_path / "initial", model, tokenizer_directory)
    copy_tokenizer(tmp_path / "initial", tmp_path / "run")
    copied = tmp_path / "run" / "tokenizer"
    assert (copied / "tokenizer.json").read_bytes() == (tokenizer_directory / "tokenizer.json").read_bytes()
    facts = json.loads((copied / "vocabulary.json").read_text("utf-8"))
    config = checkpoint_config(tmp_path / "initial")
    assert facts == {"size": config.decoder.vocab_size, "stop_tokens": list(config.stop_tokens)}
