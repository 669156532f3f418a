"""Prefill and decode of the same decoder in this project and in other engines, in turn, with the ratios.

    python benchmarks/peers/compare.py --layers 4 --python openvino=build/peers/openvino/bin/python ...

Each engine is a process of its own (worker.py), in an environment of its own where it needs one; all have their models
in memory for the whole run. Every round asks one after the other for a prefill and for some tokens after it, beginning
with another engine each time, and measures the machine's limits in between. Ratios are those of one round; shown are
their medians and quartiles. The weights are synthetic. AMX is held back (amx.py) but from engines named with +amx.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amx import has_amx
from engine import TINY, About, Shape
from worker import AMX, ENGINES

WORKER = Path(__file__).with_name("worker.py")
OURS = "valley2"
PACKAGES = {
    "valley2": "valley2-edge",
    "valley2-int4-head": "valley2-edge",
    "onnxruntime": "onnxruntime onnx",
    "openvino": "openvino numpy",
    "openvino-f32": "openvino numpy",
    "llama.cpp": "llama-cpp-python gguf",
}
GIGA = 1e9


@dataclass
class Timing:
    """One round of one engine."""

    prefill_seconds: float
    decode_seconds: float
    int8_peak: float
    """Operations a second, around the prefill."""
    bandwidth: float
    """Bytes a second, around the decode."""


class Worker:
    """The process of one engine.

    Args:
        name: A key of `ENGINES`.
        python: The interpreter that has it.
        scratch: A directory of its own.
        shape: Of the decoder.
        threads: For the engine.
        most: Positions at most.
    """

    def __init__(self, name: str, python: str, scratch: Path, shape: Shape, threads: int, most: int) -> None:
        self.name = name
        self.about: About | None = None
        """None: it is not installed."""
        self.timings: list[Timing] = []
        scratch.mkdir()
        command = [python, str(WORKER), name, shape.text(), str(threads), str(most), str(scratch)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self._answer()
        if "missing" in answer:
            packages = PACKAGES[name.removesuffix(AMX)]
            print(f"{name}: not compared: {answer['missing']}; pip install {packages} for {python}", flush=True)
            return
        facts = answer["about"]
        self.about = About(**{**facts, "everywhere": tuple(facts["everywhere"])})
        print(f"{name}: {self.about.version}; {self.about.weights}", flush=True)

    def ask(self, command: str, amount: int = 0) -> Any:
        """Has it do something."""
        if self._process.stdin is None:
            raise RuntimeError(f"{self.name} has no input")
        self._process.stdin.write(f"{command} {amount}\n")
        self._process.stdin.flush()
        return self._answer()["value"]

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SystemExit(
                f"error: the process of {self.name} ended with {self._process.wait()}; its words are above"
            )
        return json.loads(line)


@dataclass(frozen=True)
class Rounds:
    """How a comparison goes."""

    positions: int
    tokens: int
    warm_up: int
    count: int


def compare(workers: Sequence[Worker], rounds: Rounds) -> None:
    """Fills the timings of every worker; the first is this project's."""
    for number in range(-rounds.warm_up, rounds.count):
        first = number % len(workers)
        for worker in [*workers[first:], *workers[:first]]:
            before = workers[0].ask("limits")
            prefill = worker.ask("prefill", rounds.positions)
            between = workers[0].ask("limits")
            decode = worker.ask("decode", rounds.tokens)
            after = workers[0].ask("limits")
            if number >= 0:
                peak, bandwidth = (before[0] + between[0]) / 2, (between[1] + after[1]) / 2
                worker.timings.append(Timing(prefill, decode, peak, bandwidth))
        print(f"round {number + 1} of {rounds.count}" if number >= 0 else "warm-up", file=sys.stderr, flush=True)


@dataclass
class Row:
    """The figures of one engine, each one value a round."""

    name: str
    about: About
    prefill_speed: list[float] = field(default_factory=list)
    """Positions a second at the number of layers that ran."""
    prefill_share: list[float] = field(default_factory=list)
    """Prefill speeds as shares of the int8 peak."""
    prefill_ratio: list[float] = field(default_factory=list)
    """Ratios of this project's speed to the engine's, both with all layers of the model."""
    decode_speed: list[float] = field(default_factory=list)
    decode_share: list[float] = field(default_factory=list)
    """Decode speeds as shares of the read bandwidth."""
    decode_ratio: list[float] = field(default_factory=list)


def evaluate(workers: Sequence[Worker], shape: Shape, all_layers: int, rounds: Rounds) -> list[Row]:
    """Speeds, shares and ratios.

    An engine that computes less of the last layer gains more with fewer layers. Ratios are therefore of the times that
    all layers would take: a time is multiplied by what the engine must compute, or read, with all over what it did.
    """
    whole = dataclasses.replace(shape, layers=all_layers)
    rows: list[Row] = []
    ours: list[tuple[float, float]] = []
    for worker in workers:
        if worker.about is None:
            continue
        about, row = worker.about, Row(worker.name, worker.about)
        operations = about.prefill_operations(shape, rounds.positions)
        deeper = about.prefill_operations(whole, rounds.positions) / operations
        longer = about.bytes_per_token(whole) / about.bytes_per_token(shape)
        times = [(one.prefill_seconds * deeper, one.decode_seconds * longer) for one in worker.timings]
        if worker.name == OURS:
            ours = times
        for one, theirs, own in zip(worker.timings, times, ours, strict=True):
            row.prefill_speed.append(rounds.positions / one.prefill_seconds)
            row.prefill_share.append(operations / one.prefill_seconds / one.int8_peak)
            row.prefill_ratio.append(theirs[0] / own[0])
            row.decode_speed.append(rounds.tokens / one.decode_seconds)
            row.decode_share.append(about.bytes_per_token(shape) * rounds.tokens / one.decode_seconds / one.bandwidth)
            row.decode_ratio.append(theirs[1] / own[1])
        rows.append(row)
    return rows


def show(rows: Sequence[Row], shape: Shape, all_layers: int, rounds: Rounds) -> None:
    """Prints a markdown table."""
    print(f"\n{shape.layers} of {all_layers} layers, {rounds.count} rounds; medians, quartiles in brackets\n")
    print(
        f"| engine | prefill {rounds.positions}, tokens/s | of the int8 peak | ours is faster by | decode, tokens/s | "
        "of the bandwidth | ours is faster by |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        values = (
            _median(row.prefill_speed, ".1f"),
            _median(row.prefill_share, ".2f"),
            _spread(row.prefill_ratio),
            _median(row.decode_speed, ".1f"),
            _median(row.decode_share, ".2f"),
            _spread(row.decode_ratio),
        )
        print(f"| {row.name} | {' | '.join(values)} |")


def _median(values: Sequence[float], pattern: str) -> str:
    return format(statistics.median(values), pattern)


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> int:
    """Reads the command line, compares and prints."""
    arguments = _parse()
    shape = TINY if arguments.shape == "tiny" else Shape()
    all_layers = shape.layers
    shape = dataclasses.replace(shape, layers=arguments.layers or all_layers)
    rounds = Rounds(arguments.positions, arguments.tokens, arguments.warm_up, arguments.rounds)
    pythons = dict(pair.split("=", 1) for pair in arguments.python)
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="valley2-peers-", dir=arguments.scratch) as scratch:
        try:
            for name in [OURS, *(name for name in arguments.engines if name != OURS)]:
                most = rounds.positions + rounds.tokens
                python = pythons.get(name.removesuffix(AMX), sys.executable)
                worker = Worker(name, python, Path(scratch, name), shape, arguments.threads, most)
                workers.append(worker)
            if workers[0].about is None:
                return 2
            compare([worker for worker in workers if worker.about is not None], rounds)
        finally:
            for worker in workers:
                worker.close()
    rows = evaluate(workers, shape, all_layers, rounds)
    show(rows, shape, all_layers, rounds)
    if has_amx():
        print(f"\nThis processor has AMX; only engines with {AMX} could use it.")
    if arguments.json is not None:
        content = {
            "layers": shape.layers,
            "all_layers": all_layers,
            "threads": arguments.threads,
            **dataclasses.asdict(rounds),
            "engines": [dataclasses.asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--engines",
        nargs="+",
        default=list(ENGINES),
        choices=[*ENGINES, *(name + AMX for name in ENGINES if name != OURS)],
        metavar="ENGINE",
        help="where the processor has AMX, an engine uses it only as ENGINE+amx (default: all without it)",
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENGINE=PATH", help="interpreter that has an engine"
    )
    parser.add_argument("--shape", default="qwen2.5-7b", choices=("qwen2.5-7b", "tiny"))
    parser.add_argument("--layers", type=_positive, help="layers of the decoder (default: all of the shape)")
    parser.add_argument("--threads", type=_positive, default=_usable_processors(), help="default: %(default)s")
    parser.add_argument(
        "--positions", type=_positive, default=512, help="positions of the prefill (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=_positive, default=16, help="tokens to decode after the prefill (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=_positive, default=5, help="default: %(default)s")
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that do not count (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="where the models are written (default: the system's place)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure of every round")
    arguments = parser.parse_args()
    for pair in arguments.python:
        if pair.partition("=")[0] not in ENGINES or not Path(pair.partition("=")[2]).is_file():
            parser.error(f"--python takes ENGINE=PATH with an engine among {', '.join(ENGINES)}, not {pair}")
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _usable_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
