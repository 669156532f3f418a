"""GPTQ here against GPTQModel: the same weights and calibration inputs, the error of the output of each.

    pip install gptqmodel==7.6.0 "torch<2.14"     # into an environment that has valley2-edge
    GPTQMODEL_CPU_WORKERS=2 python benchmarks/compare_gptqmodel.py --checkpoint DIR --layer 2

With --checkpoint the matrix is the qkv of a layer, and the inputs are what the unrounded layers before it make of the
built-in calibration set; those that errors are measured on are made of the held-out set. Without it the inputs are
synthetic: correlated, with a spectrum that falls, columns of very different size and some outliers. Both sides are
measured with the fp16 scales that they store.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch

from valley2_edge.bundle import open_bundle
from valley2_edge.calibration.activations import MemoryActivations
from valley2_edge.calibration.builtin import builtin_set
from valley2_edge.calibration.decoder_block import rms_norm
from valley2_edge.calibration.held_out import held_out_set
from valley2_edge.calibration.packs import Pack, pack_samples
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.layers import norm_weight, run_unrounded, split_parts, stacked_rows
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.vision.sample_encoder import encode_all, sample_encoder
from valley2_edge.quantize.error import relative_output_error, relative_weight_error
from valley2_edge.quantize.gptq_options import ColumnOrder, GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.method import Method, quantize_matrix, rounding_method
from valley2_edge.quantize.rtn import dequantize_rows

BATCH = 1024


@dataclass(frozen=True)
class Problem:
    """A matrix and its inputs."""

    weights: torch.Tensor
    """(rows, columns) float32."""
    calibration: torch.Tensor
    """(tokens, columns) float32."""
    held_out: torch.Tensor
    """(tokens, columns) float32, for measuring alone."""


def synthetic_problem(rows: int, columns: int, tokens: int, seed: int) -> Problem:
    """Weights with a few large values, and inputs whose second moment is far from diagonal."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        numbers: torch.Tensor = torch.randn(*shape, generator=generator)
        return numbers

    rank = columns // 4
    mixing = normal(rank, columns) / rank**0.5
    spectrum = torch.arange(1, rank + 1).float() ** -0.5
    sizes = torch.exp(0.7 * normal(columns))  # of the columns
    sizes[torch.randperm(columns, generator=generator)[: max(1, columns // 200)]] *= 4

    def inputs() -> torch.Tensor:
        correlated: torch.Tensor = 2 * (normal(tokens, rank) * spectrum) @ mixing + 0.2 * normal(tokens, columns)
        return correlated * sizes

    large = torch.where(torch.rand(rows, columns, generator=generator) < 0.002, 5.0, 1.0)
    return Problem(0.02 * normal(rows, columns) * torch.exp(0.2 * normal(columns)) * large, inputs(), inputs())


def checkpoint_problem(directory: Path, layer: int, samples: int) -> Problem:
    """The qkv of a layer with the inputs that it gets from calibration samples and from held-out ones."""
    held_out = [one.sample for one in held_out_set(samples).samples]
    with Checkpoint.open(directory) as checkpoint, tempfile.TemporaryDirectory() as scratch:
        bundle = open_bundle(export_bundle(directory, Path(scratch) / "bundle", ExportOptions(precision="fp32")))
        encoder = sample_encoder(checkpoint, bundle)
        parts = split_parts(checkpoint.config.decoder)[0][layer]
        weights = stacked_rows(checkpoint, parts.qkv, 0, parts.qkv.rows)
        inputs = (
            layer_inputs(checkpoint, list(pack_samples(encode_all(encoder, chosen, lambda *_: None))), layer)
            for chosen in (builtin_set(samples).samples, held_out)
        )
        return Problem(weights, *inputs)


def layer_inputs(checkpoint: Checkpoint, pairs: Sequence[tuple[Pack, torch.Tensor]], layer: int) -> torch.Tensor:
    """(tokens, hidden) float32: what the qkv of a layer multiplies."""
    config = checkpoint.config.decoder
    before = config.model_copy(update={"num_hidden_layers": layer})
    activations = MemoryActivations([pack.rows for pack, _ in pairs], config.hidden_size)
    for number, (_, embeddings) in enumerate(pairs):
        activations.write(number, embeddings)
    packs = [pack for pack, _ in pairs]
    with torch.inference_mode():
        run_unrounded(checkpoint, before, packs, activations, torch.device("cpu"), lambda *_: None)
        hidden = torch.cat([activations.read(number) for number in range(len(packs))])
        norm = norm_weight(checkpoint, split_parts(config)[0][layer].input_norm)
        return rms_norm(hidden, norm, config.rms_norm_eps)


def quantize_here(problem: Problem, matrix_format: MatrixFormat, method: Method) -> torch.Tensor:
    """(rows, columns) float32: the stored weights of this project's method."""
    hessian = Hessian(problem.weights.shape[1], "matrix")
    for batch in torch.split(problem.calibration, BATCH):
        hessian.add(batch)
    rows, _ = quantize_matrix(problem.weights, matrix_format, hessian, "matrix", method)
    return dequantize_rows(rows, matrix_format)


def quantize_there(problem: Problem, matrix_format: MatrixFormat, **options: Any) -> torch.Tensor:
    """(rows, columns) float32: the stored weights of GPTQModel."""
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    rows, columns = problem.weights.shape
    layer = torch.nn.Linear(columns, rows, bias=False)
    layer.weight.data = problem.weights.clone()
    config = QuantizeConfig(
        bits=4,
        group_size=matrix_format.group_size,
        sym=matrix_format.symmetric,
        damp_percent=GptqOptions().damping,
        offload_to_disk=False,
        **options,
    )
    task = GPTQ(layer, config)
    task.quantizer.configure(perchannel=True)
    for batch in torch.split(problem.calibration, BATCH):
        task.add_batch(batch[None], batch[None])
    restored, scales, zeros, groups, *_ = task.quantize()
    scales, zeros = scales.float()[:, groups.long()], zeros.float()[:, groups.long()]  # (rows, columns)
    levels = torch.round(restored.float() / scales + zeros)
    restored_weights: torch.Tensor = (levels - zeros) * scales.half().float()
    return restored_weights


def compare(problem: Problem, matrix_format: MatrixFormat) -> list[tuple[str, float, float, float, float]]:
    """Name, error of the weights, of the output, of the output on held-out inputs, and seconds of each method."""
    columns = problem.weights.shape[1]
    seen, unseen = Hessian(columns, "matrix"), Hessian(columns, "matrix")
    seen.add(problem.calibration)
    unseen.add(problem.held_out)
    there = partial(quantize_there, problem, matrix_format)
    runs: dict[str, Callable[[], torch.Tensor]] = {
        "rtn": partial(quantize_here, problem, matrix_format, rounding_method("rtn")),
        "gptqmodel, columns in order": partial(there, desc_act=False, act_group_aware=False),
        "gptqmodel, columns in order, mse": partial(there, desc_act=False, act_group_aware=False, mse=2.4),
        "gptqmodel, group-aware order": partial(there, desc_act=False, act_group_aware=True),
        "gptqmodel, group-aware order, mse": partial(there, desc_act=False, act_group_aware=True, mse=2.4),
        "gptqmodel, activation order": partial(there, desc_act=True, act_group_aware=False),
        "gptqmodel, activation order, mse": partial(there, desc_act=True, act_group_aware=False, mse=2.4),
    }
    orders: tuple[ColumnOrder, ...] = ("columns", "groups", "activation")
    for order in orders:
        for search, passes in ((False, 0), (True, 0), (True, GptqOptions().descent_passes)):
            method = rounding_method("gptq", GptqOptions(order=order, scale_search=search, descent_passes=passes))
            name = f"here, order {order}{', scale search' if search else ''}{', descent' if passes else ''}"
            runs[name] = partial(quantize_here, problem, matrix_format, method)
    results = []
    for name, run in runs.items():
        start = time.perf_counter()
        stored = run()
        seconds = time.perf_counter() - start
        error, held_out_error = (relative_output_error(problem.weights, stored, hessian) for hessian in (seen, unseen))
        results.append((name, relative_weight_error(problem.weights, stored), error, held_out_error, seconds))
    return results


def main() -> int:
    """Prints one table for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="take a matrix and its inputs from this model")
    parser.add_argument("--layer", type=int, default=0, help="which layer of --checkpoint (default: %(default)s)")
    parser.add_argument(
        "--samples", type=int, default=64, help="samples of each set, with --checkpoint (default: %(default)s)"
    )
    options = parser.parse_args()
    try:
        import gptqmodel
    except ImportError:
        print("gptqmodel is not installed: pip install gptqmodel==7.6.0", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    if options.checkpoint is not None:
        problem = checkpoint_problem(options.checkpoint, options.layer, options.samples)
    else:
        problem = synthetic_problem(options.rows, options.columns, options.tokens, options.seed)
    print(f"{tuple(problem.weights.shape)}, {len(problem.calibration)} tokens, gptqmodel {gptqmodel.__version__}")
    for group_size, symmetric in ((128, True), (128, False), (32, True)):
        print(f"\nint4, groups of {group_size}, {'symmetric' if symmetric else 'asymmetric'}")
        print(f"{'':44}{'weights':>9}{'output':>9}{'held out':>9}{'seconds':>9}")
        for name, weights, seen, unseen, seconds in compare(problem, MatrixFormat("int4", group_size, symmetric)):
            print(f"{name:44}{weights:9.4f}{seen:9.4f}{unseen:9.4f}{seconds:9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
