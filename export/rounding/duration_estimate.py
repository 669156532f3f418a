"""Estimates before the first layer how long GPTQ will take: counted work, and the speed of a short matrix product."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from valley2_edge.calibration.packs import Pack
from valley2_edge.config import DecoderConfig
from valley2_edge.duration import format_duration
from valley2_edge.export.decoder.layers import split_parts

PRODUCT_COST: Mapping[str, float] = {"forward": 1.15, "exact": 1.15, "hessian": 0.6, "factor": 0.25, "round": 1.7}
"""What a unit of each kind of work costs (WorkMeter's units), in multiplications of a large matrix product on the same
device. Second moments and factors cost less than one, because half of a symmetric matrix suffices."""
STEP_COST = 6_800.0
"""What one weight costs between the products of a rounding, in multiplications of a matrix product on the processor."""
RTN_LOSS = "about three times as much"
"""How much more `rtn` loses than `gptq` in int4, by the KL of docs/quantization.md."""
_SIDE = {"cpu": 512, "cuda": 4096}  # of the matrices whose product is timed: some milliseconds
_MEASURING_SECONDS = 0.2


@dataclass(frozen=True)
class ProductRates:
    """Multiplications of a large float32 matrix product in a second of wall time where no other program runs."""

    device: float
    """Where the layers run."""
    processor: float
    """The same on the processor, with all threads of torch."""


def estimate_seconds(config: DecoderConfig, work: Mapping[str, float], rates: ProductRates) -> float:
    """Estimates how long work of GPTQ takes.

    Args:
        config: The decoder's sizes.
        work: The amount of each kind, in the units of the work meter.
        rates: The speed of matrix products.
    """
    products = sum(PRODUCT_COST[kind] * amount for kind, amount in work.items())
    return products / rates.device + STEP_COST * _weights(config, work["round"]) / rates.processor


def measure_rates(device: torch.device) -> ProductRates:
    """Times matrix products for half a second at most.

    Args:
        device: Where the layers run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread's own time says the same whatever other programs do
    try:
        processor = threads * _product_rate(torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    return ProductRates(processor if device.type == "cpu" else _product_rate(device), processor)


def opening_sentence(
    config: DecoderConfig, packs: Sequence[Pack], work: Mapping[str, float], done: tuple[int, int], rates: ProductRates
) -> str:
    """Says before the first layer how long GPTQ will take, and what doing without it would give up.

    Args:
        config: The decoder's sizes.
        packs: The calibration set.
        work: The amount of each kind that is left, in the units of the work meter.
        done: The number of finished layers and of all, where lm_head counts as one.
        rates: The speed of matrix products.
    """
    samples, tokens = sum(len(pack.spans) for pack in packs), sum(pack.rows for pack in packs)
    earlier = f"{done[0]} of {done[1]} layers are rounded already, " if done[0] else ""
    left = format_duration(max(1.0, estimate_seconds(config, work, rates)))
    counted = "1 sample" if samples == 1 else f"{samples} samples"
    return (
        f"GPTQ on {counted} ({tokens:,} tokens): {earlier}about {left} on this machine; --method rtn takes a "
        f"few minutes at most and loses {RTN_LOSS} (docs/quantization.md)"
    )


def _weights(config: DecoderConfig, rounding: float) -> float:
    """The number of weights in a share of the rounding, whose unit is rows times columns squared."""
    layers, head = split_parts(config)
    matrices = [matrix for layer in layers for matrix in layer.matrices] + [head.lm_head]
    total = sum(float(matrix.columns) ** 2 * matrix.rows for matrix in matrices)
    return rounding / total * sum(matrix.rows * matrix.columns for matrix in matrices)


def _product_rate(device: torch.device) -> float:
    """The best of several products: a machine that does something else for a moment would look slow."""
    side = _SIDE[device.type]
    matrix = torch.rand(side, side, device=device)
    _seconds_of_a_product(matrix)  # the first one also starts threads and loads kernels
    begin, best = time.perf_counter(), float("inf")
    while best == float("inf") or time.perf_counter() - begin < _MEASURING_SECONDS:
        best = min(best, _seconds_of_a_product(matrix))
    return side**3 / max(best, 1e-9)


def _seconds_of_a_product(matrix: torch.Tensor) -> float:
    clock = time.thread_time if matrix.device.type == "cpu" else time.perf_counter
    begin = clock()
    float((matrix @ matrix)[0, 0])  # reading a number waits for a GPU
    return clock() - begin
