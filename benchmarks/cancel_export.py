"""Measures how long Ctrl-C takes in an export at the released layer sizes: to the sentence and to the process's end.

    python benchmarks/cancel_export.py --moments 10

Every stage runs again and again in a process of its own, as the command runs it, and gets SIGINT at a random moment.
The stage `load` is the import of torch, which hears signals between the libraries that it opens only.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HIDDEN, WIDE = 3584, 18944
"""Sizes of the released decoder."""


def load(directory: Path) -> Callable[[], object]:
    """Importing what an export needs."""

    def work() -> None:
        import valley2_edge.export.pipeline  # noqa: F401

        time.sleep(60)

    return work


def rtn(directory: Path) -> Callable[[], object]:
    """Rounding a matrix to the nearest, block by block."""
    import torch

    from valley2_edge.quantize.matrix_format import MatrixFormat
    from valley2_edge.quantize.rtn import dequantize_rows, quantize_rows

    block, matrix_format = torch.randn(256, WIDE), MatrixFormat("int4")
    return lambda: dequantize_rows(quantize_rows(block, matrix_format, "down"), matrix_format)


def gptq(directory: Path) -> Callable[[], object]:
    """Factorising a Hessian and rounding a block of rows with it."""
    import torch

    from valley2_edge.quantize.gptq import GptqSolver
    from valley2_edge.quantize.gptq_options import GptqOptions
    from valley2_edge.quantize.hessian import Hessian
    from valley2_edge.quantize.matrix_format import MatrixFormat

    hessian = Hessian(HIDDEN, "gate_up", torch.device("cpu"))
    hessian.add(torch.randn(2 * HIDDEN, HIDDEN), torch.ones(2 * HIDDEN))
    weights = torch.randn(1024, HIDDEN)
    return lambda: GptqSolver(hessian, MatrixFormat("int4"), GptqOptions(), "gate_up").quantize(weights)


def forward(directory: Path) -> Callable[[], object]:
    """A layer's largest product over a pack of 2048 rows."""
    import torch

    rows, gate_up = torch.randn(2048, HIDDEN), torch.randn(2 * WIDE, HIDDEN)
    return lambda: rows @ gate_up.T


def tower(directory: Path) -> Callable[[], object]:
    """The check of SigLIP: two tiles through one of its layers in torch."""
    import torch

    from valley2_edge.config import SiglipConfig
    from valley2_edge.export.vision.torch_reference import SiglipReference

    reference = SiglipReference(SiglipConfig(num_hidden_layers=1))
    tiles = torch.randn(2, 3, 384, 384)

    def work() -> None:
        with torch.inference_mode():
            reference(tiles)

    return work


def hashing(directory: Path) -> Callable[[], object]:
    """Hashing a file."""
    from valley2_edge.bundle import sha256_of_file

    with (directory / "file").open("wb") as stream:
        stream.truncate(8 << 30)  # takes no space on the disk
    return lambda: sha256_of_file(directory / "file", lambda count: None)


def reading(directory: Path) -> Callable[[], object]:
    """Reading a tensor of a shard."""
    import torch
    from safetensors.torch import save_file

    from valley2_edge.config import ModelConfig
    from valley2_edge.export.checkpoint.checkpoint import Checkpoint
    from valley2_edge.export.checkpoint.shards import read_header

    save_file({"down": torch.zeros(HIDDEN, WIDE, dtype=torch.bfloat16)}, directory / "shard.safetensors")
    checkpoint = Checkpoint(directory, ModelConfig(), read_header(directory / "shard.safetensors"), ())
    return lambda: checkpoint.tensor("down")


STAGES = {stage.__name__: stage for stage in (load, rtn, gptq, forward, tower, hashing, reading)}


def run_stage(name: str, directory: Path) -> None:
    """What the measured process does."""
    from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted

    once = STAGES[name](directory)

    def work() -> None:
        sys.stderr.write("begun\n")
        while True:
            once()

    try:
        run_until_interrupted(work)
    except Interrupted:
        leave("stopped")


def measure(name: str, wait: float) -> tuple[float, float]:
    """Milliseconds from SIGINT to the sentence and to the end of the process."""
    with tempfile.TemporaryDirectory() as directory:
        words = [sys.executable, __file__, "--stage", name, "--directory", directory]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
            stream = process.stderr
            if stream is None or stream.readline() != "begun\n":
                raise SystemExit(f"{name} did not begin")
            time.sleep(wait)
            begin = time.perf_counter()
            process.send_signal(signal.SIGINT)
            line = stream.readline()
            said = time.perf_counter()
            code = process.wait()
            ended = time.perf_counter()
    if code != 130 or not line.endswith("stopped\n"):
        raise SystemExit(f"{name} ended with {code} and {line!r}")
    return 1e3 * (said - begin), 1e3 * (ended - begin)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10, help="how many signals each stage gets")
    parser.add_argument("--stages", default=",".join(STAGES), help="which stages are measured (default: %(default)s)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.directory)
        return
    moments = random.Random(0)
    print(f"{'stage':<10}{'to the sentence, ms':>30}{'to the end, ms':>30}")
    print(f"{'':<10}" + f"{'median':>10}{'95 %':>10}{'worst':>10}" * 2)
    for name in arguments.stages.split(","):
        found = [measure(name, moments.uniform(0, 3)) for _ in range(arguments.moments)]
        cells = ""
        for times in zip(*found, strict=True):
            ordered = sorted(times)
            high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
            cells += f"{statistics.median(ordered):10.1f}{high:10.1f}{ordered[-1]:10.1f}"
        print(f"{name:<10}{cells}", flush=True)


if __name__ == "__main__":
    main()
