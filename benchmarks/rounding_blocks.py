"""Times GPTQ on a block of rows of each matrix of the first layer, and scales that to a whole decoder.

    python benchmarks/make_checkpoint.py --output short --layers 1 --outliers
    OMP_NUM_THREADS=1 python benchmarks/rounding_blocks.py short

Rows do not depend on one another, so that a matrix takes what one block takes, times its blocks; a factor is computed
once for each matrix. This takes minutes where benchmarks/rounding_time.py, which rounds whole layers, takes hours.
The inputs are random numbers with some large channels: how long rounding takes hardly depends on them.
Seconds are CPU time of all threads; lm_head is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from valley2_edge.errors import Valley2Error
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.decoder.layers import row_blocks, split_parts
from valley2_edge.export.decoder.parts import DecoderMatrix
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.method import rounding_method
from valley2_edge.runtime.core.process_memory import peak_bytes

BLOCK_ROWS = 1024
OUTLIER_EVERY = 97
OUTLIER_FACTOR = 16
PARTS = ("hessian", "factor", "round", "forward")

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds of all threads, and what the work returns."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def measure(checkpoint: Checkpoint, matrix: DecoderMatrix, tokens: int) -> dict[str, float]:
    """CPU seconds that the whole matrix takes, by part; "hessian" and "forward" for one token."""
    matrix_format = decoder_formats("int4", lm_head_precision="fp16").layers
    hessian = Hessian(matrix.columns, matrix.name, torch.device("cpu"))
    inputs = torch.randn(tokens, matrix.columns, generator=torch.Generator().manual_seed(0))
    inputs[:, ::OUTLIER_EVERY] *= OUTLIER_FACTOR
    adding, _ = timed(lambda: hessian.add(inputs, torch.ones(tokens)))
    solving, rounding = timed(lambda: rounding_method("gptq", GptqOptions()).start(matrix_format, matrix.name, hessian))
    weights = next(iter(row_blocks(checkpoint, matrix, BLOCK_ROWS)))
    blocks = matrix.rows / len(weights)
    quantizing, _ = timed(lambda: rounding.quantize(weights))
    running, _ = timed(lambda: inputs @ weights.T)
    seconds = (adding / tokens, solving, quantizing * blocks, running * blocks / tokens)
    return dict(zip(PARTS, seconds, strict=True))


def main() -> int:
    """Reads the command line, measures, prints a line when a matrix is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens that are timed (default: %(default)s)")
    parser.add_argument(
        "--whole-layers", type=int, default=28, help="layers to scale the time to (default: %(default)s)"
    )
    parser.add_argument(
        "--whole-tokens", type=int, default=128 * 1500, help="tokens to scale the time to (default: %(default)s)"
    )
    arguments = parser.parse_args()
    layer = dict.fromkeys(PARTS, 0.0)
    print("| matrix | a token's second moments | factor | rounding | a token's product |\n" + "| --- " * 5 + "|")
    try:
        with torch.inference_mode(), Checkpoint.open(arguments.checkpoint) as checkpoint:
            for matrix in split_parts(checkpoint.config.decoder)[0][0].matrices:
                seconds = measure(checkpoint, matrix, arguments.tokens)
                cells = " | ".join(f"{seconds[part]:.3g}" for part in PARTS)
                print(f"| {matrix.name} | {cells} |", flush=True)
                # Where the inputs of down do not fit into memory, gate_up is computed once more for the layer's output.
                times = {"forward": 2 if matrix.name.endswith("gate_up") else 1}
                layer = {part: layer[part] + times.get(part, 1) * seconds[part] for part in PARTS}
    except (Valley2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    fixed, a_token = layer["factor"] + layer["round"], layer["hessian"] + layer["forward"]
    hours = arguments.whole_layers * (fixed + arguments.whole_tokens * a_token) / 3600
    print(f"\na layer: {fixed:.3g} CPU s, and {a_token:.3g} a token of the calibration set")
    print(f"{arguments.whole_layers} layers, {arguments.whole_tokens} tokens: {hours:.3g} CPU hours")
    print(f"{torch.get_num_threads()} threads, peak memory {(peak_bytes() or 0) / 2**30:.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
