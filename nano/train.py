"""Trains valley2-nano from nothing on generated pictures, and writes it as a checkpoint in the released layout.

    python nano/pretrain.py --output build/nano --minutes 11              # the vision towers
    python nano/train.py --output build/nano --minutes 100               # all of it
    python nano/train.py --output build/nano --minutes 100 --resume       # after an interruption
    python nano/train.py --output build/nano --minutes 150 --resume       # longer; see --from-broad
    python nano/train.py --output build/more --minutes 60 --initial CHECKPOINT --first-dialogue 44000

OUTPUT/log.jsonl gets a line every 20 steps; OUTPUT/state.pt and OUTPUT/checkpoint/ are renewed every two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

# OpenMP's threads must not spin while another process has the core; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Space for a matrix product's kernel for each of the few thousand shapes that occur.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

import torch

from valley2_nano.run_files import copy_tokenizer, prepare_tokenizer
from valley2_nano.schedule import Schedule
from valley2_nano.training import TrainingOptions, options_record, train


def main() -> None:
    """Trains as the command line says."""
    arguments = _parser().parse_args()
    if (arguments.minutes is None) == (arguments.steps is None):
        sys.exit("Give either --minutes or --steps.")
    if arguments.batch % arguments.processes:
        sys.exit(f"--batch {arguments.batch} is not a multiple of --processes {arguments.processes}.")
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if arguments.from_broad:
        shutil.copyfile(output / "state-broad.pt", output / "state.pt")
    resume = arguments.resume or arguments.from_broad
    if not resume and (output / "state.pt").exists():
        sys.exit(f"{output} holds a training run; --resume goes on with it.")
    if arguments.initial:
        if resume:
            sys.exit("--initial begins a run; it does not go with --resume or --from-broad.")
        copy_tokenizer(arguments.initial, output)
    elif not resume and not (output / "towers.pt").is_file():
        sys.exit(f"{output} has no towers.pt; nano/pretrain.py makes it.")
    options = _options(arguments, output, resume)
    (output / "rendezvous").unlink(missing_ok=True)
    record = json.dumps(options_record(options), indent=2, default=str)
    (output / "options.json").write_text(record + "\n", encoding="utf-8")
    if options.processes == 1:
        train(0, options)
    else:
        torch.multiprocessing.spawn(train, (options,), nprocs=options.processes)  # type: ignore[attr-defined,no-untyped-call]


def _options(arguments: argparse.Namespace, output: Path, resume: bool) -> TrainingOptions:
    schedule = Schedule(arguments.rate, arguments.warmup, arguments.annealing_share, arguments.minutes, arguments.steps)
    return TrainingOptions(
        output=output,
        config=prepare_tokenizer(output),
        schedule=schedule,
        seed=arguments.seed,
        batch=arguments.batch,
        processes=arguments.processes,
        threads=arguments.threads,
        device=arguments.device,
        muon=arguments.optimizer == "muon",
        weight_decay=arguments.weight_decay,
        tower_factor=arguments.tower_factor,
        compiled=arguments.compile,
        resume=resume,
        initial=arguments.initial,
        first_dialogue=arguments.first_dialogue,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory of the run")
    parser.add_argument("--minutes", type=float, help="training time, summed over all runs in this directory")
    parser.add_argument("--steps", type=int, help="steps instead of minutes; the result depends on the seed only")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/state.pt")
    parser.add_argument("--from-broad", action="store_true", help="go on from the end of the broad stage")
    parser.add_argument("--initial", type=Path, help="a trained checkpoint to begin from, instead of the towers alone")
    parser.add_argument(
        "--first-dialogue", type=int, default=0, help="number of a new run's first dialogue, by which the phases go"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="dialogues of a step")
    parser.add_argument("--processes", type=int, default=2, help="training processes, one for each core")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--tower-factor", type=float, default=0.25, help="learning rate of the towers, relative")
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--warmup", type=int, default=60, help="steps in which the learning rate rises")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="fuse small operations")
    parser.add_argument(
        "--annealing-share", type=float, default=0.25, help="share of the whole training that is annealing, at its end"
    )
    return parser


if __name__ == "__main__":
    main()
