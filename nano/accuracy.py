"""Scores a checkpoint in torch on held-out questions: cyclic accuracy of each task, with branches switched off.

python nano/accuracy.py build/nano/checkpoint --count 50 --views all no_tiles no_eagle text_only
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from valley2_edge.ecom.benchmark import benchmark_questions
from valley2_edge.tokenizer import Tokenizer
from valley2_nano.checkpoint import read_checkpoint
from valley2_nano.scoring import VIEWS, score


def main() -> None:
    """Scores as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=50, help="questions of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=["all"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = read_checkpoint(arguments.checkpoint).to(arguments.device), Tokenizer(arguments.checkpoint)
    begin = time.perf_counter()
    questions = benchmark_questions(arguments.count, arguments.seed)
    scores = {view: score(model, tokenizer, questions, view) for view in arguments.views}
    if arguments.json:
        print(json.dumps({view: {task: asdict(one) for task, one in tasks.items()} for view, tasks in scores.items()}))
        return
    print(f"{'cyclic accuracy (single)':<28}" + "".join(f"{view:>16}" for view in scores))
    for task in scores[arguments.views[0]]:
        cells = (scores[view][task] for view in scores)
        print(f"{task:<28}" + "".join(f"{cell.cyclic:>8.1%} ({cell.single:.0%})".rjust(16) for cell in cells))
    means = (sum(one.cyclic for one in tasks.values()) / len(tasks) for tasks in scores.values())
    print(f"{'average':<28}" + "".join(f"{mean:>9.1%}      ".rjust(16) for mean in means))
    print(f"{arguments.count} questions a task, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
