"""Compares ways of rounding a checkpoint's decoder on held-out pictures and questions; prints markdown tables.

python benchmarks/quantization.py CHECKPOINT [--samples 64] [--calibration-samples 128] [--only NAME ...]

The first table is of bundles as they run, with int8 activations; the second of the rounded weights alone, in float32.
Intervals of 95 % are a bootstrap over samples; the change is against the default on the same samples.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from valley2_edge.bundle import open_bundle
from valley2_edge.calibration.builtin import builtin_set
from valley2_edge.evaluation.intervals import Estimate, bootstrap_ratio
from valley2_edge.export.calibrated_decoder import RoundingPlan, round_decoder
from valley2_edge.export.calibration_inputs import prepare_packs, sample_encoder
from valley2_edge.export.checkpoint import Checkpoint
from valley2_edge.export.decoder_layers import split_parts
from valley2_edge.export.decoder_layout import DecoderFormats
from valley2_edge.export.layout import required_tensors
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.quality import Quality, measure_quality
from valley2_edge.export.rounded_layers import LayerStore
from valley2_edge.export.rounding import RoundingOptions
from valley2_edge.quantize.gptq import GptqOptions
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.method import MethodName, rounding_method
from valley2_edge.quantize.rtn import dequantize_rows

DEFAULT = "gptq (the default)"
IN_MEMORY = 1 << 30

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    DEFAULT: ({}, {}),
    "rtn": ({}, {"method": "rtn"}),
    "nf4": ({}, {"method": "nf4"}),
    "text-only calibration": ({}, {"text_only": True}),
    "picture weight 0.3": ({}, {"picture_weight": 0.3}),
    "picture weight 0.1": ({}, {"picture_weight": 0.1}),
    "picture weight balanced": ({}, {"picture_weight": "balanced"}),
    "column order: columns": ({}, {"gptq": GptqOptions(order="columns")}),
    "column order: groups": ({}, {"gptq": GptqOptions(order="groups")}),
    "no scale search": ({}, {"gptq": GptqOptions(scale_search=False)}),
    "symmetric": ({"symmetric": True}, {}),
    "groups of 64": ({"group_size": 64}, {}),
    "groups of 32": ({"group_size": 32}, {}),
    "4.5 bits on average": ({}, {"average_bits": 4.5}),
    "5 bits on average": ({}, {"average_bits": 5.0}),
    "6 bits on average": ({}, {"average_bits": 6.0}),
    "lm_head int4": ({"lm_head_precision": "int4"}, {}),
    "int8, rtn": ({"precision": "int8"}, {"method": "rtn"}),
}
"""Arguments of export_bundle, and fields of RoundingOptions, by name."""

WEIGHTS_ONLY: dict[str, tuple[MethodName, MatrixFormat]] = {
    "gptq": ("gptq", MatrixFormat("int4", 128)),
    "gptq, symmetric": ("gptq", MatrixFormat("int4", 128, symmetric=True)),
    "rtn": ("rtn", MatrixFormat("int4", 128)),
    "rtn, symmetric": ("rtn", MatrixFormat("int4", 128, symmetric=True)),
    "nf4": ("nf4", MatrixFormat("int4", 128, code="nf4")),
}


def main() -> None:
    """Runs the comparisons that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=64, help="held-out samples")
    parser.add_argument("--calibration-samples", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=None, help="names of variants")
    parser.add_argument("--json", type=Path, default=None, help="also write every figure here")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, Checkpoint.open(arguments.checkpoint) as checkpoint:
        rows = _measure_bundles(checkpoint, arguments, Path(scratch), figures)
        _print_table("Bundles, int8 activations", rows)
        rows = _measure_weights(checkpoint, arguments, Path(scratch), figures)
        _print_table("Rounded weights alone, float32 activations", rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def _measure_bundles(
    checkpoint: Checkpoint, arguments: argparse.Namespace, scratch: Path, figures: dict[str, Any]
) -> dict[str, tuple[Quality, int]]:
    """The quality of each variant and the bytes of its decoder."""
    rows: dict[str, tuple[Quality, int]] = {}
    for name, (options, fields) in VARIANTS.items():
        if arguments.only is not None and name not in arguments.only:
            continue
        given = {"method": "gptq", "calibration": "builtin", **fields}
        rounding = RoundingOptions(**given, calibration_samples=arguments.calibration_samples, quality_samples=0)
        bundle = open_bundle(export_bundle(arguments.checkpoint, scratch / "bundle", rounding=rounding, **options))
        quality = measure_quality(
            checkpoint, bundle, arguments.samples, scratch / "activations.bin", IN_MEMORY, lambda *_: None
        )
        rows[name] = (quality, bundle.manifest.files["decoder/decoder.safetensors"].size)
        figures[name] = {
            **quality.figures(),
            "matrices": [row.model_dump() for row in bundle.manifest.decoder.matrices],
        }
        shutil.rmtree(bundle.directory)
        print(f"{name}: mean KL {quality.mean_kl():.5f}", flush=True)
    return rows


def _measure_weights(
    checkpoint: Checkpoint, arguments: argparse.Namespace, scratch: Path, figures: dict[str, Any]
) -> dict[str, tuple[Quality, int]]:
    """The same for rounded weights in a bundle of floats; the size is that of the formats."""
    wanted = {f"weights: {name}": value for name, value in WEIGHTS_ONLY.items()}
    if arguments.only is not None:
        wanted = {name: value for name, value in wanted.items() if name in arguments.only}
    if not wanted:
        return {}
    plain = open_bundle(export_bundle(arguments.checkpoint, scratch / "plain", precision="fp32"))
    samples = builtin_set(arguments.calibration_samples).samples
    rows: dict[str, tuple[Quality, int]] = {}
    for name, (method, layers) in wanted.items():
        store = LayerStore(scratch / "layers")
        packs = prepare_packs(sample_encoder(checkpoint, plain), samples, store, lambda *_: None)
        formats = DecoderFormats(layers, MatrixFormat("int8", 128))
        plan = RoundingPlan(rounding_method(method), formats)
        round_decoder(checkpoint, store, packs, plan, lambda *_: None, lambda _: None)
        copy = _dequantized_copy(checkpoint, store, plan.formats, scratch / "copy")
        bundle = open_bundle(export_bundle(copy, scratch / "bundle", precision="fp32"))
        quality = measure_quality(
            checkpoint, bundle, arguments.samples, scratch / "activations.bin", IN_MEMORY, lambda *_: None
        )
        rows[name] = (quality, sum(path.stat().st_size for path in store.directory.glob("layer-*.safetensors")))
        figures[name] = quality.figures()
        for directory in (store.directory, copy, bundle.directory):
            shutil.rmtree(directory)
        print(f"{name}: mean KL {quality.mean_kl():.5f}", flush=True)
    return rows


def _dequantized_copy(checkpoint: Checkpoint, store: LayerStore, formats: DecoderFormats, directory: Path) -> Path:
    """A checkpoint in float32 whose rounded matrices are replaced by what they stand for."""
    directory.mkdir()
    for path in checkpoint.path.iterdir():
        if path.is_file() and not path.name.startswith("model"):
            shutil.copyfile(path, directory / path.name)
    tensors = {name: checkpoint.tensor(name).float() for name in required_tensors(checkpoint.config)}
    layers, head = split_parts(checkpoint.config.decoder)
    steps = [(step, matrix) for step, layer in enumerate(layers) for matrix in layer.matrices]
    steps.append((len(layers), head.lm_head))
    for step, matrix in steps:
        matrix_format = formats.of(matrix.name)
        # A tied output matrix is the embedding table, too, which stays as it is.
        if not matrix_format.quantized or matrix.weights[0].startswith("model.embed_tokens"):
            continue
        stored = dequantize_rows(store.read_matrix(step, matrix.name, matrix.rows), matrix_format)
        start = 0
        for name in matrix.weights:
            count = tensors[name].shape[0]
            tensors[name] = stored[start : start + count].clone()
            start += count
    save_file(tensors, directory / "model.safetensors")
    return directory


def _print_table(title: str, rows: dict[str, tuple[Quality, int]]) -> None:
    if not rows:
        return
    print(f"\n{title}\n")
    print("| variant | MB | mean KL | change | same token | perplexity ratio | characters wrong | Ecom-VQA |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    reference = next(iter(rows.values()))[0]
    for name, (quality, size) in rows.items():
        figures = quality.figures()
        cells = [
            name,
            f"{size / 1e6:.2f}",
            _cell(figures["mean_kl"], "{:.4f}"),
            _change(quality, reference),
            _cell(figures["same_top"], "{:.1%}"),
            _cell(figures["perplexity_ratio"], "{:.3f}"),
            _cell(figures["character_error_rate"], "{:.1%}"),
            _cell(figures["ecom_vqa"], "{:.1%}"),
        ]
        print(f"| {' | '.join(cells)} |")


def _cell(facts: dict[str, float] | None, pattern: str) -> str:
    if facts is None:
        return ""
    value, low, high = (pattern.format(facts[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _change(quality: Quality, reference: Quality) -> str:
    """Change of the mean KL against the first row, over the same samples."""
    if quality is reference:
        return ""
    change: Estimate = bootstrap_ratio(_differences(quality, reference), [one.positions for one in quality.samples])
    return f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def _differences(quality: Quality, reference: Quality) -> Sequence[float]:
    return [ours.kl - theirs.kl for ours, theirs in zip(quality.samples, reference.samples, strict=True)]


if __name__ == "__main__":
    main()
