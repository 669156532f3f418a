"""Rounds the first layers of a checkpoint by GPTQ and says where the time goes; prints markdown tables.

    python benchmarks/make_checkpoint.py --output short --layers 4 --outliers
    python benchmarks/measure_memory.py --limit-gib 8 -- python benchmarks/rounding_time.py short --work scratch

The layers are rounded by the exporter's own code. What they are calibrated on stands in for pictures and questions:
rows of the embedding table, every second run of 512 of them mixed to look like a projector's output. Neither the vision
side nor lm_head runs. Run it again after an interruption, and it goes on behind the last layer.

Seconds are CPU time of all threads, which other programs on the machine do not lengthen, and each kind of work grows
with an amount of its own: the last column scales it to a whole decoder and to the tokens of a calibration set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from valley2_edge.calibration.encode import NO_TARGET
from valley2_edge.calibration.packs import PACK_TOKENS, Pack, Span
from valley2_edge.config import DecoderConfig
from valley2_edge.duration import format_duration
from valley2_edge.errors import Valley2Error
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.rounding.calibrated_decoder import RoundingPlan, round_decoder
from valley2_edge.export.rounding.layer_store import LayerState, LayerStore
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.quantize.method import rounding_method

RUN = 512
GROWS_WITH_TOKENS = ("forward", "exact", "hessian")
WORDS = {
    "forward": "the layers run over the calibration set",
    "exact": "the unrounded layers run over it as well",
    "hessian": "second moments of the inputs, and their drift",
    "factor": "their factors",
    "round": "rounding, descent included",
}


def make_packs(checkpoint: Checkpoint, tokens: int, seed: int) -> tuple[list[Pack], list[torch.Tensor]]:
    """Packs of one sample each, and their rows (rows, hidden) float32."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = checkpoint.shape(EMBEDDINGS)[0]
    packs, rows = [], []
    for start in range(0, tokens, PACK_TOKENS):
        count = min(PACK_TOKENS, tokens - start)
        known = min(count, vocabulary)
        first = int(torch.randint(vocabulary - known + 1, (1,), generator=generator))
        words = checkpoint.rows(EMBEDDINGS, first, first + known).to(torch.float32)[torch.arange(count) % known]
        is_picture = torch.arange(count) // RUN % 2 == 0
        mixing = torch.randn(count, count, generator=generator) / count**0.5
        rows.append(torch.where(is_picture[:, None], mixing @ words, words))
        targets = torch.full((count,), NO_TARGET)
        packs.append(Pack((Span(0, count, ()),), is_picture, targets))
    return packs, rows


def run(arguments: argparse.Namespace) -> tuple[LayerState, DecoderConfig]:
    """Rounds the layers that are not rounded yet."""
    store = LayerStore(arguments.work)
    options = GptqOptions() if arguments.passes is None else GptqOptions(descent_passes=arguments.passes)
    # lm_head stays as it is.
    formats = decoder_formats("int4", lm_head_precision="fp16")
    plan = RoundingPlan(rounding_method("gptq", options), formats, budget_bytes=int(arguments.memory_gib * 2**30))
    with Checkpoint.open(arguments.checkpoint) as checkpoint:
        packs, rows = make_packs(checkpoint, arguments.tokens, seed=0)
        first = store.activations_path(0)
        if store.state.steps == 0 and not first.is_file():
            first.write_bytes(b"".join(one.numpy().tobytes() for one in rows))
        del rows
        state = round_decoder(checkpoint, store, packs, plan, _report, lambda sentence: print(sentence, flush=True))
        return state, checkpoint.config.decoder


def print_tables(state: LayerState, config: DecoderConfig, arguments: argparse.Namespace) -> None:
    """Shares, and the extrapolation."""
    total = sum(state.cpu_seconds.values())
    layers = config.num_hidden_layers
    whole = arguments.whole_layers / layers
    print("\n| work | CPU s a layer | share | whole decoder |\n| --- | --- | --- | --- |")
    sum_whole = 0.0
    for kind, seconds in state.cpu_seconds.items():
        scaled = seconds * whole * (arguments.whole_tokens / arguments.tokens if kind in GROWS_WITH_TOKENS else 1)
        sum_whole += scaled
        print(f"| {WORDS[kind]} | {seconds / layers:.3g} | {seconds / total:.0%} | {format_duration(scaled)} |")
    print(f"| all | {total / layers:.3g} | | {format_duration(sum_whole)} |")
    print(
        f"\n{layers} layers, {arguments.tokens} tokens, {torch.get_num_threads()} threads; whole decoder: "
        f"{arguments.whole_layers} layers, {arguments.whole_tokens} tokens, CPU time"
    )
    print(f"peak memory {state.peak_bytes / 2**30:.2f} GiB of {arguments.memory_gib:g}")
    print("\n| matrix | error of the output |\n| --- | --- |")
    for name, errors in _errors_by_kind(state).items():
        print(f"| {name} | {', '.join(f'{error:.4f}' for error in errors)} |")


def _errors_by_kind(state: LayerState) -> Mapping[str, list[float]]:
    errors: dict[str, list[float]] = {}
    for record in state.records:
        errors.setdefault(record.name.split(".", 2)[-1], []).append(record.output_error or 0.0)
    return errors


def _report(stage: str, done: int, total: int) -> None:
    print(json.dumps({"stage": stage, "done": done, "total": total}), file=sys.stderr, flush=True)


def main() -> int:
    """Reads the command line, rounds, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="finished layers; belongs to one set of arguments")
    parser.add_argument("--tokens", type=int, default=8192, help="of the calibration (default: %(default)s)")
    parser.add_argument("--passes", type=int, help="of the descent (default: the exporter's)")
    parser.add_argument("--memory-gib", type=float, default=8, help="of the process (default: %(default)s)")
    parser.add_argument("--whole-layers", type=int, default=28, help="to scale to (default: %(default)s)")
    parser.add_argument("--whole-tokens", type=int, default=128 * 1500, help="to scale to (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        state, config = run(arguments)
    except (Valley2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_tables(state, config, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
