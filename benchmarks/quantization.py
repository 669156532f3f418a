"""Compares ways of rounding a checkpoint's decoder on held-out pictures and questions; prints markdown tables.

    python benchmarks/quantization.py valley2_edge/builtin/valley2-nano [--samples 64] [--calibration-samples 128]

Every variant is one line of DIR/results.jsonl (--work DIR), keyed by its options, the checkpoint's sha256 and the sizes
of both sets: a run that was interrupted goes on, and a table can be printed again for nothing. The pictures are encoded
and the unrounded model runs once for all variants.

The pictures come from the vision towers in bf16. Bundles run as they will, with int8 activations, unless a line says
int16. Intervals of 95 % are a bootstrap over samples; the change is against the default on the same samples, pair by
pair.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.calibration.builtin import BUILTIN
from valley2_edge.errors import ExportError, Valley2Error
from valley2_edge.eval.intervals import bootstrap_ratio
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import no_announcement, no_progress
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.decoder.layout import DECODER_FILE, EMBEDDINGS_FILE
from valley2_edge.export.decoder.writer import export_decoder, export_rounded_decoder
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.quality.figures import Quality, SampleQuality
from valley2_edge.export.quality.rounded_model import Activations
from valley2_edge.export.quality.survey import QualitySurvey
from valley2_edge.export.rounding.inputs import prepare_packs
from valley2_edge.export.rounding.layer_store import LayerStore
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.rounding.rounder import Rounding, resolve_rounding, round_with_calibration
from valley2_edge.export.vision.sample_encoder import sample_encoder
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.gptq_options import GptqOptions
from valley2_edge.version import __version__

IN_MEMORY = 1 << 30
DEFAULT = "gptq (the default)"


@dataclass(frozen=True)
class Variant:
    """One way to round, and to run."""

    formats: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of decoder_formats beside the precision."""
    rounding: Mapping[str, Any] = field(default_factory=dict)
    """Fields of RoundingOptions."""
    precision: DecoderPrecision = "int4"
    activations: Activations = "int8"


def _gptq(**options: Any) -> Variant:
    return Variant(rounding={"gptq": GptqOptions(**options)})


VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    "rtn": Variant(rounding={"method": "rtn"}),
    "gptq, symmetric": Variant({"symmetric": True}),
    "rtn, symmetric": Variant({"symmetric": True}, {"method": "rtn"}),
    "nf4": Variant({"code": "nf4"}, {"method": "nf4"}),
    "gptq, int16 activations": Variant(activations="int16"),
    "rtn, int16 activations": Variant(rounding={"method": "rtn"}, activations="int16"),
    "nf4, int16 activations": Variant({"code": "nf4"}, {"method": "nf4"}, activations="int16"),
    "calibrated on text alone": Variant(rounding={"text_only": True}),
    "picture weight 0.3": Variant(rounding={"picture_weight": 0.3}),
    "picture weight 0.1": Variant(rounding={"picture_weight": 0.1}),
    "picture weight balanced": Variant(rounding={"picture_weight": "balanced"}),
    "column order groups": _gptq(order="groups"),
    "column order columns": _gptq(order="columns"),
    "no scale search": _gptq(scale_search=False),
    "no descent": _gptq(descent_passes=0),
    "one pass of descent": _gptq(descent_passes=1),
    "four passes of descent": _gptq(descent_passes=4),
    "no scale refit": _gptq(scale_refit=False),
    "neither search, descent nor refit": _gptq(scale_search=False, descent_passes=0),
    "groups of 64": Variant({"group_size": 64}),
    "groups of 32": Variant({"group_size": 32}),
    "4.5 bits on average": Variant(rounding={"average_bits": 4.5}),
    "5 bits on average": Variant(rounding={"average_bits": 5.0}),
    "lm_head in fp16": Variant({"lm_head_precision": "fp16"}),
    "lm_head in int4": Variant({"lm_head_precision": "int4"}),
    "int8, rtn": Variant(rounding={"method": "rtn"}, precision="int8"),
    "int8, gptq": Variant(precision="int8"),
}

TABLES: dict[str, tuple[str, ...]] = {
    "Methods; symmetric and nf4 have the same size": (
        DEFAULT, "rtn", "gptq, symmetric", "rtn, symmetric", "nf4",
    ),
    "The same weights with activations that cost nothing": (
        "gptq, int16 activations", "rtn, int16 activations", "nf4, int16 activations",
    ),
    "What it is calibrated on": (DEFAULT, "calibrated on text alone"),
    "Weight of a picture's token": (
        DEFAULT, "picture weight 0.3", "picture weight 0.1", "picture weight balanced",
    ),
    "Column order": (DEFAULT, "column order groups", "column order columns"),
    "Scales, zero points and descent": (
        DEFAULT, "gptq, symmetric", "no scale search", "no scale refit", "no descent", "one pass of descent",
        "four passes of descent", "neither search, descent nor refit",
    ),
    "Sizes": (
        DEFAULT, "groups of 64", "groups of 32", "4.5 bits on average", "5 bits on average", "int8, rtn", "int8, gptq",
    ),
    "Output matrix": (
        DEFAULT, "lm_head in fp16", "lm_head in int4",
    ),
}  # fmt: skip
"""The first line of each table is what the others are compared with."""


@dataclass(frozen=True)
class Result:
    """A measured variant."""

    quality: Quality
    decoder_bytes: int


class Workshop:
    """Everything that the variants share: a bundle for its vision towers, both sets, the unrounded model's answers."""

    def __init__(self, checkpoint: Checkpoint, arguments: argparse.Namespace) -> None:
        self._checkpoint = checkpoint
        self._arguments = arguments
        self._sha256 = weights_sha256(checkpoint.path)
        self._directory = arguments.work / self._sha256[:16]
        self._directory.mkdir(parents=True, exist_ok=True)
        self._survey: QualitySurvey | None = None

    def key(self, variant: Variant) -> str:
        """What decides a result."""
        identity = {
            "variant": asdict(variant),
            "checkpoint": self._sha256,
            "samples": self._arguments.samples,
            "calibration_samples": self._arguments.calibration_samples,
            "version": __version__,
        }
        return json.dumps(identity, sort_keys=True, default=asdict)

    def measure(self, variant: Variant) -> Result:
        """Rounds, and measures what came out."""
        base = self._base()
        if self._survey is None:
            self._survey = QualitySurvey(
                self._checkpoint, self._arguments.samples, self._directory / "rows.bin", IN_MEMORY, no_progress
            )
            self._survey.measure(base)  # its pictures and its drafts make the reference
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            bundle = self._bundle(base, Path(scratch) / "bundle")
            self._write_decoder(variant, base, bundle.directory, Path(scratch) / "workspace")
            quality = self._survey.measure(bundle, activations=variant.activations)
            return Result(quality, (bundle.directory / DECODER_FILE).stat().st_size)

    def _base(self) -> Bundle:
        """A bundle that lends its vision towers; rounded to the nearest, which takes no time."""
        directory = self._directory / "base"
        if not directory.is_dir():
            options = ExportOptions(rotation="none", rounding=RoundingOptions(method="rtn"))
            export_bundle(self._checkpoint.path, directory, options)
        return open_bundle(directory)

    def _bundle(self, base: Bundle, directory: Path) -> Bundle:
        """A bundle without matrices and vision towers: its pictures are those of all."""
        (directory / EMBEDDINGS_FILE).parent.mkdir(parents=True)
        shutil.copyfile(base.directory / EMBEDDINGS_FILE, directory / EMBEDDINGS_FILE)
        return Bundle(directory, base.manifest)

    def _write_decoder(self, variant: Variant, base: Bundle, directory: Path, workspace: Path) -> None:
        config = self._checkpoint.config.decoder
        formats = decoder_formats(variant.precision, **variant.formats)
        given = {"method": "gptq", "calibration_samples": self._arguments.calibration_samples, **variant.rounding}
        if given["method"] != "gptq":
            export_decoder(self._checkpoint, config, directory, formats)
            return
        options = RoundingOptions(calibration=BUILTIN, quality_samples=0, **given)
        rounding = resolve_rounding(options, variant.precision, rounded_elsewhere=False)
        for name in ("sensitivity", "layers"):
            shutil.copytree(self._packs(base, rounding), workspace / name)
        found = round_with_calibration(
            self._checkpoint, base, rounding, formats, workspace, no_progress, no_announcement
        )
        export_rounded_decoder(found.layers, config, directory, found.formats)

    def _packs(self, base: Bundle, rounding: Rounding) -> Path:
        """A directory with the calibration set as the first layer's input, made once."""
        if rounding.calibration is None:
            raise ExportError("gptq needs a calibration set")
        directory: Path = self._directory / f"set-{rounding.calibration.sha256[:16]}"
        store = LayerStore(directory)
        prepare_packs(sample_encoder(self._checkpoint, base), rounding.calibration.samples, store, no_progress)
        return directory


class Results:
    """Measured variants in a file, a line each.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Result] = {}
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                self._read(line)

    def get(self, key: str) -> Result | None:
        """The result of a variant that was measured."""
        return self._known.get(key)

    def add(self, key: str, result: Result) -> None:
        """Appends a result."""
        self._known[key] = result
        line = {"key": key, "decoder_bytes": result.decoder_bytes, "quality": asdict(result.quality)}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _read(self, line: str) -> None:
        try:
            content = json.loads(line)
            quality = content["quality"]
            for name in ("samples", "own_samples"):
                quality[name] = tuple(SampleQuality(**sample) for sample in quality[name])
            self._known[content["key"]] = Result(Quality(**quality), content["decoder_bytes"])
        except (ValueError, KeyError, TypeError):
            print(f"a line of {self._path} is damaged and is left out", file=sys.stderr)


def weights_sha256(directory: Path) -> str:
    """Digest of the checkpoint's weights and configuration."""
    digest = hashlib.sha256()
    for path in sorted([*directory.glob("*.safetensors"), directory / "config.json"]):
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def print_tables(results: Mapping[str, Result]) -> None:
    """Every table of which two lines are known, or the only one."""
    for title, names in TABLES.items():
        rows = {name: results[name] for name in names if name in results}
        if len(rows) < min(2, len(names)) or names[0] not in rows:
            continue
        print(f"\n{title}:\n")
        print("| variant | MB | mean KL | change | same token | perplexity | characters wrong | Ecom-VQA |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, result in rows.items():
            print(f"| {' | '.join(_cells(name, result, rows[names[0]]))} |")
    _print_goal(results)


def _print_goal(results: Mapping[str, Result]) -> None:
    if DEFAULT not in results:
        return
    figures = results[DEFAULT].quality.figures()
    print(
        f"\nint4 in groups of 128: mean KL {_cell(figures['mean_kl'], '{:.4f}')}, same token "
        f"{_cell(figures['same_top'], '{:.2%}')}; the goals are 0.03 at most and 92% at least"
    )


def _cells(name: str, result: Result, reference: Result) -> list[str]:
    figures = result.quality.figures()
    return [
        name,
        f"{result.decoder_bytes / 1e6:.2f}",
        _cell(figures["mean_kl"], "{:.5f}"),
        "" if result is reference else _change(result.quality, reference.quality),
        _cell(figures["same_top"], "{:.2%}"),
        _cell(figures["perplexity_ratio"], "{:.4f}"),
        _cell(figures["character_error_rate"], "{:.1%}"),
        _cell(figures["ecom_vqa"], "{:.1%}"),
    ]


def _cell(facts: Mapping[str, float] | None, pattern: str) -> str:
    if facts is None:
        return ""
    value, low, high = (pattern.format(facts[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _change(quality: Quality, reference: Quality) -> str:
    """Change of the mean KL over the same samples."""
    differences = [ours.kl - theirs.kl for ours, theirs in zip(quality.samples, reference.samples, strict=True)]
    change = bootstrap_ratio(differences, [one.positions for one in quality.samples])
    return f"{change.value:+.5f} ({change.low:+.5f} to {change.high:+.5f})"


def main() -> int:
    """Measures what is not known yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=64, help="held-out samples (default: %(default)s)")
    parser.add_argument(
        "--calibration-samples", type=int, default=128, help="calibration samples (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="*", choices=list(VARIANTS), metavar="VARIANT", help="measure these variants alone"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/quantization"),
        help="directory with the results and what the variants share",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of torch and of the decoder (default: all processor cores)"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.work / "results.jsonl")
    measured: dict[str, Result] = {}
    try:
        with Checkpoint.open(arguments.checkpoint) as checkpoint:
            workshop = Workshop(checkpoint, arguments)
            for name in arguments.only or VARIANTS:
                key = workshop.key(VARIANTS[name])
                result = results.get(key)
                if result is None:
                    began = time.process_time()
                    result = workshop.measure(VARIANTS[name])
                    results.add(key, result)
                    spent = time.process_time() - began
                    print(f"{name}: mean KL {result.quality.mean_kl():.5f}, {spent:.0f} CPU s", file=sys.stderr)
                measured[name] = result
    except (Valley2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_tables(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
