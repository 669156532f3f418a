"""Writes a synthetic Valley2 checkpoint of the released size: random weights under the released names and shapes.

    python benchmarks/make_checkpoint.py --output big                # 16.6 GiB
    python benchmarks/make_checkpoint.py --output short --layers 2   # all of the vision side, two decoder layers

The weights are bfloat16, in shards, and written in a stream, a few megabytes at a time. Nothing about the model's
answers means anything, but its sizes, memory and speed do. With --outliers a few channels of the decoder are sixteen
times the rest, as in trained models, which rounding must cope with.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from math import prod
from pathlib import Path

from rich.progress import Progress

from valley2_edge.byte_count import format_bytes
from valley2_edge.config import DecoderConfig, ModelConfig, PictureConfig
from valley2_edge.errors import ExportError, Valley2Error
from valley2_edge.export.checkpoint.config import parse_grid_pinpoints
from valley2_edge.export.checkpoint.tensor_names import pooling_head_tensors, required_tensors
from valley2_edge.export.synthetic.checkpoint import BF16_BYTES, write_synthetic_checkpoint
from valley2_edge.export.synthetic.tokenizer import write_tokenizer

RELEASED_LAYERS = 28
CANVASES = parse_grid_pinpoints("(1x1),...,(3x3)", crop_size=384)


def write_checkpoint(directory: Path, layers: int, seed: int, *, outliers: bool = False) -> int:
    """Writes the whole checkpoint.

    Args:
        directory: Does not exist yet.
        layers: Decoder layers; the release has 28.
        seed: Of the weights.
        outliers: Whether some channels of the decoder are far larger than the rest.

    Returns:
        Bytes of the weights.

    Raises:
        ExportError: The directory exists, or its disk cannot hold the checkpoint.
        OSError: It cannot be written.
    """
    if directory.exists():
        raise ExportError(f"{directory} exists; name a directory that does not.")
    config = ModelConfig(decoder=DecoderConfig(num_hidden_layers=layers), picture=PictureConfig(canvases=CANVASES))
    shapes = required_tensors(config) | pooling_head_tensors(config.siglip)
    total = BF16_BYTES * sum(map(prod, shapes.values()))
    directory.mkdir(parents=True)
    free = shutil.disk_usage(directory).free
    if total > free:
        raise ExportError(
            f"The checkpoint takes {format_bytes(total)}, the disk of {directory} has {format_bytes(free)}."
        )
    with tempfile.TemporaryDirectory() as tokenizer, Progress() as progress:
        write_tokenizer(Path(tokenizer))
        task = progress.add_task("weights", total=total)
        write_synthetic_checkpoint(
            directory,
            config,
            Path(tokenizer),
            seed=seed,
            outliers=outliers,
            progress=lambda _stage, done, _total: progress.update(task, completed=done),
        )
    return total


def main() -> int:
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory to make")
    parser.add_argument("--layers", type=int, default=RELEASED_LAYERS, help="decoder layers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outliers", action="store_true", help="some channels of the decoder far larger than the rest")
    arguments = parser.parse_args()
    if arguments.layers < 1:
        parser.error("--layers must be at least 1")
    try:
        total = write_checkpoint(arguments.output, arguments.layers, arguments.seed, outliers=arguments.outliers)
    except (Valley2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {total:,} bytes of weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
