"""Measures the vision towers at the released sizes: native int8, bf16 and fp32, and ONNX Runtime in fp32, in turn.

    python benchmarks/vision_towers.py --directory build/towers --prepare
    python benchmarks/vision_towers.py --directory build/towers

The first call writes towers with random weights, the second one measures them. A round runs every engine once, with the
machine's limits read before and after; figures are medians of the rounds, shares are of the limit of the same moment.
With fewer layers than the released towers have, times are scaled to all of them. An engine can name its instruction
set, as in `--engines bf16@avx2,bf16,onnx`. On a machine that others use at the same time, `--clock cpu` counts the time
that the process spent on its processors, by thread, and not the time that passed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from valley2_edge.bench.work import eagle_operations, projector_operations, siglip_operations
from valley2_edge.config import EagleConfig, ModelConfig, SiglipConfig
from valley2_edge.errors import ExportError, Valley2Error
from valley2_edge.export.checkpoint.tensor_names import Shape, eagle_tensors, projector_tensors, siglip_tensors
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.component import block_positions
from valley2_edge.export.vision.native_eagle import eagle_parts
from valley2_edge.export.vision.native_file import Part, Tensors, TowerPrecision, write_tower
from valley2_edge.export.vision.native_projector import projector_parts
from valley2_edge.export.vision.native_siglip import siglip_parts
from valley2_edge.export.vision.onnx_eagle import write_eagle
from valley2_edge.export.vision.onnx_projector import write_projector
from valley2_edge.export.vision.onnx_siglip import write_siglip
from valley2_edge.runtime.core.probe import LimitName, Probe
from valley2_edge.runtime.core.vision_engine import ComponentName, EngineInputs, VisionEngine
from valley2_edge.runtime.onnx.engine import OnnxEngine
from valley2_edge.runtime.vision.native_engine import NativeEngine

TOWERS: tuple[ComponentName, ...] = ("siglip", "projector", "eagle")
EAGLE_SIDE = 32
"""Patches of the Eagle picture's side: 1024 in all."""
LIMITS: dict[str, LimitName] = {"int8": "int8", "bf16": "fp32", "fp32": "fp32", "onnx": "fp32"}
"""What an engine is a share of; there is no probe of bf16."""
PRECISIONS: dict[str, TowerPrecision] = {"int8": "int8", "bf16": "bf16", "fp32": "fp32"}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Subject:
    """One engine of one tower."""

    tower: ComponentName
    engine: str
    """int8, bf16, fp32 or onnx, and perhaps @ and an instruction set."""
    path: Path

    @property
    def arithmetic(self) -> str:
        """The engine without its instruction set."""
        return self.engine.partition("@")[0]


class RandomCheckpoint:
    """Random tensors of a checkpoint, by name."""

    def __init__(self, shapes: dict[str, Shape]) -> None:
        self._shapes = shapes
        self._random = torch.Generator().manual_seed(0)

    def tensor(self, name: str) -> torch.Tensor:
        """Matrices keep the scale of what they multiply; norms are 1, biases 0."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        values = torch.randn(shape, generator=self._random)
        return values if "embedding.weight" in name else values / values[0].numel() ** 0.5


def released(layers: int) -> ModelConfig:
    """The released sizes with fewer layers in both towers."""
    siglip, eagle = SiglipConfig(num_hidden_layers=layers), EagleConfig(depth=layers)
    return ModelConfig(siglip=siglip, eagle=eagle)


def prepare(subject: Subject, config: ModelConfig) -> None:
    """Writes one tower, unless it is there."""
    if subject.path.exists():
        return
    if config.eagle is None:
        raise ExportError("The released model has an Eagle tower.")
    shapes = siglip_tensors(config.siglip) | projector_tensors(config.projector) | eagle_tensors(config.eagle)
    weights = Weights(RandomCheckpoint(shapes), lambda: None)  # type: ignore[arg-type]
    subject.path.parent.mkdir(parents=True, exist_ok=True)
    if subject.arithmetic == "onnx":
        if subject.tower == "siglip":
            write_siglip(weights, config.siglip, subject.path, "fp32")
        elif subject.tower == "projector":
            write_projector(weights, config.projector, config.siglip, subject.path, "fp32")
        else:
            write_eagle(weights, config.eagle, subject.path, "fp32")
        return
    precision = PRECISIONS[subject.arithmetic]
    if subject.tower == "siglip":
        write_tower(
            subject.path, "siglip", config.siglip.model_dump(), _random(siglip_parts(weights, config.siglip, precision))
        )
    elif subject.tower == "projector":
        settings = {**config.projector.model_dump(), "patches_per_side": config.siglip.patches_per_side}
        write_tower(subject.path, "projector", settings, projector_parts(weights, config.projector))
    else:
        write_tower(
            subject.path, "eagle", config.eagle.model_dump(), _random(eagle_parts(weights, config.eagle, precision))
        )


def _random(parts: Sequence[Part]) -> list[Part]:
    """The parts of int8 without the search for the best smoothing, which takes minutes and moves no time."""
    return [Part(part.tensors, part.matrices, _maker(part)) for part in parts]


def _maker(part: Part) -> Callable[[], Tensors]:
    def make() -> Tensors:
        tensors: Tensors = {}
        for matrix in part.matrices:
            weight = torch.randn(matrix.outputs, matrix.columns) / matrix.columns**0.5
            tensors |= matrix.pack(weight, torch.zeros(matrix.outputs) if matrix.bias else None)
        for plan in part.tensors:
            value = torch.ones if plan.name.endswith("weight") else torch.zeros
            tensors.setdefault(plan.name, value(plan.shape))
        return tensors

    return make


def open_engine(subject: Subject, config: ModelConfig, threads: int) -> VisionEngine:
    """Loads one engine."""
    if subject.arithmetic == "onnx":
        return OnnxEngine(subject.path, subject.tower, threads=threads, providers=["CPUExecutionProvider"])
    isa = subject.engine.partition("@")[2] or "auto"
    return NativeEngine(subject.path, subject.tower, config, threads=threads, isa=isa)


def inputs_of(tower: ComponentName) -> EngineInputs:
    """One tile, its features, or the patches of one picture."""
    random = np.random.default_rng(0)
    if tower == "siglip":
        return {"tiles": random.random((1, 3, 384, 384), dtype=np.float32) * 2 - 1}
    if tower == "projector":
        return {"features": random.standard_normal((1, 729, 1152), dtype=np.float32)}
    patches = random.standard_normal((EAGLE_SIDE**2, 588), dtype=np.float32)
    return {"patches": patches, "positions": block_positions(EAGLE_SIDE, EAGLE_SIDE, 2)}


def scale_of(tower: ComponentName, config: ModelConfig) -> tuple[float, float]:
    """Operations of one run, and of one with all layers of the released tower."""
    full = ModelConfig()
    if tower == "siglip":
        return siglip_operations(config.siglip), siglip_operations(full.siglip)
    if tower == "projector":
        work = projector_operations(full.projector, full.siglip)
        return work, work
    eagle = config.eagle or EagleConfig()
    return eagle_operations(eagle, EAGLE_SIDE**2), eagle_operations(EagleConfig(), EAGLE_SIDE**2)


def measure(
    subjects: Sequence[Subject], config: ModelConfig, threads: int, rounds: int, clock_name: str
) -> Iterator[str]:
    """Runs every engine once a round and yields the rows of a table."""
    clock, workers = CLOCKS[clock_name], threads if clock_name == "cpu" else 1
    seconds: dict[Subject, list[float]] = {subject: [] for subject in subjects}
    shares: dict[Subject, list[float]] = {subject: [] for subject in subjects}
    engines = {subject: open_engine(subject, config, threads) for subject in subjects}
    with Probe(threads) as probe:
        for subject, engine in engines.items():
            engine.run(inputs_of(subject.tower), None)  # warm-up
        for _ in range(rounds):
            for subject, engine in engines.items():
                inputs, limit = inputs_of(subject.tower), LIMITS[subject.arithmetic]
                before = probe.read(limit)
                begin = clock()
                engine.run(inputs, None)
                seconds[subject].append((clock() - begin) / workers)
                peak = (before + probe.read(limit)) / 2
                shares[subject].append(scale_of(subject.tower, config)[0] / seconds[subject][-1] / peak)
    for engine in engines.values():
        engine.close()
    yield f"{'tower':<10} {'engine':<16} {'s, all layers':>14} {'GOPS':>8} {'share':>6} of  {'against onnx':>12}"
    for subject in subjects:
        work, full = scale_of(subject.tower, config)
        median = statistics.median(seconds[subject])
        rival = next((s for s in subjects if s.tower == subject.tower and s.engine == "onnx"), None)
        ratios = [b / a for a, b in zip(seconds[subject], seconds[rival], strict=True)] if rival else []
        ratio = f"{statistics.median(ratios):.2f}x" if ratios else ""
        share = statistics.median(shares[subject])
        yield (
            f"{subject.tower:<10} {subject.engine:<16} {median * full / work:>14.3f} {work / median / 1e9:>8.0f} "
            f"{share:>6.2f} {LIMITS[subject.arithmetic]:<5}{ratio:>11}"
        )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="where the towers are")
    parser.add_argument("--prepare", action="store_true", help="write them, and measure nothing")
    parser.add_argument("--layers", type=int, default=6, help="layers of SigLIP and Eagle")
    parser.add_argument("--towers", default=",".join(TOWERS))
    parser.add_argument("--engines", default="int8,bf16,fp32,onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    config = released(options.layers)
    subjects = []
    for tower in options.towers.split(","):
        for engine in options.engines.split(","):
            arithmetic = engine.partition("@")[0]
            if tower == "projector" and arithmetic in ("int8", "fp32"):
                continue  # it is written in bf16
            suffix = "onnx" if engine == "onnx" else "safetensors"
            path = options.directory / f"{tower}-{arithmetic}-{options.layers}.{suffix}"
            subjects.append(Subject(tower, engine, path))
    if options.prepare:
        for subject in subjects:
            prepare(subject, config)
        return
    for line in measure(subjects, config, options.threads, options.rounds, options.clock):
        print(line)


if __name__ == "__main__":
    try:
        main()
    except Valley2Error as error:
        sys.exit(str(error))
