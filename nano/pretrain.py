"""Trains the vision towers of valley2-nano to tell what stands where on a card, before nano/train.py.

    python nano/pretrain.py --output build/nano --minutes 11

Writes OUTPUT/towers.pt, from which nano/train.py begins, and OUTPUT/towers.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import distributed

from valley2_edge.policy import Policy
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_nano.model import Valley2Nano
from valley2_nano.optimizer import TOWERS, Optimizer
from valley2_nano.run_files import prepare_tokenizer
from valley2_nano.samples import SampleMaker
from valley2_nano.towers import TowerHeads, tower_batch, tower_losses

LOG_STEPS = 20
WARMUP_STEPS = 30
HEAD_RATE = 3e-3


def main() -> None:
    """Trains as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32, help="cards of a step, over all processes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-3)
    arguments = parser.parse_args()
    prepare_tokenizer(arguments.output)
    (arguments.output / "rendezvous").unlink(missing_ok=True)
    spawn = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(_train, (arguments,), nprocs=arguments.processes)  # type: ignore[no-untyped-call]


def _train(rank: int, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    processes, size = arguments.processes, arguments.batch // arguments.processes
    store = f"file://{(arguments.output / 'rendezvous').absolute()}"
    distributed.init_process_group("gloo", store, timedelta(minutes=10), processes, rank)
    config = prepare_tokenizer(arguments.output)
    maker = SampleMaker(Tokenizer(arguments.output / "tokenizer"), config, Policy(tiles=False))
    model = Valley2Nano(config)
    heads = TowerHeads(config.decoder.hidden_size)
    optimizer = Optimizer(model, muon=True, weight_decay=0.02)
    head_optimizer = torch.optim.AdamW(heads.parameters(), lr=HEAD_RATE, weight_decay=0.0)
    parameters = [*model.parameters(), *heads.parameters()]
    step, index, begin, sums, share = 0, 0, time.monotonic(), [0.0, 0.0], 0.0
    while share < 1:
        batch = tower_batch(
            maker, arguments.seed, index + rank * size, size,
            config.projector.tokens_per_side, config.siglip.patches_per_side**2,
        )  # fmt: skip
        losses = tower_losses(model, heads, batch, torch.bfloat16)
        torch.autograd.backward(losses)
        share = _exchange(parameters, processes, (time.monotonic() - begin) / 60 / arguments.minutes)
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, (1 - share) / 0.3)
        optimizer.step(arguments.rate * max(rate, 0.0))
        head_optimizer.param_groups[0]["lr"] = HEAD_RATE * max(rate, 0.0)
        head_optimizer.step()
        model.zero_grad()
        heads.zero_grad()
        step, index = step + 1, index + arguments.batch
        sums = [total + float(loss.detach()) for total, loss in zip(sums, losses, strict=True)]
        if rank == 0 and step % LOG_STEPS == 0:
            _log(arguments.output, step, (time.monotonic() - begin) / 60, sums)
            sums = [0.0, 0.0]
    if rank == 0:
        towers = {name: value for name, value in model.state_dict().items() if name.startswith(TOWERS)}
        torch.save(towers, arguments.output / "towers.pt")
    distributed.destroy_process_group()


def _exchange(parameters: list[torch.nn.Parameter], processes: int, share: float) -> float:
    """Averages the gradients; returns the share that is done by the mean of the clocks."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([share])])
    distributed.all_reduce(flat)
    flat /= processes
    parts: tuple[torch.Tensor, ...] = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    return float(flat[-1])


def _log(output: Path, step: int, minutes: float, sums: list[float]) -> None:
    line = {
        "step": step,
        "minutes": round(minutes, 2),
        "siglip_loss": round(sums[0] / LOG_STEPS, 4),
        "eagle_loss": round(sums[1] / LOG_STEPS, 4),
    }
    with (output / "towers.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
