"""`valley2-edge bench`: how fast the model runs on this machine, beside what the machine can do at most."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleArgument
from valley2_edge.cli.flags import Only, with_flags
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
from valley2_edge.cli.option_groups import FLAGS
from valley2_edge.cli.rounding_flags import check_group_size
from valley2_edge.cli.terminal import error_console, output_console, stage_progress
from valley2_edge.errors import InputError
from valley2_edge.options import EaglePreset, LoadOptions
from valley2_edge.precisions import DecoderPrecision

if TYPE_CHECKING:
    from valley2_edge.bench.options import Options
    from valley2_edge.bench.report import Report
    from valley2_edge.cli.terminal import StageProgress

EXAMPLES = examples(
    "valley2-edge bench nano",
    "valley2-edge bench my-bundle --parts decode,first-token --threads 4",
    "valley2-edge bench --shape qwen2.5-7b --layers 4",
)
_SHAPE = "Without a bundle"

Measure = Callable[["Options", "StageProgress", Callable[["Report"], None]], "Report"]
"""Measures with the options, told progress and what was measured so far; returns the report of all."""


@dataclass(frozen=True)
class ShapeFlags:
    """What is typed about a decoder with synthetic weights."""

    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure a decoder with synthetic weights instead: qwen2.5-7b or tiny.",
            rich_help_panel=_SHAPE,
        ),
    ] = None
    layers: Annotated[
        int | None,
        typer.Option(help="Number of layers of the shape. By default all that it has.", rich_help_panel=_SHAPE),
    ] = None
    precision: Annotated[
        DecoderPrecision | None,
        typer.Option(help="Precision of the shape's matrices. By default int4.", rich_help_panel=_SHAPE),
    ] = None
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Columns that share a scale. By default as in an export: 128, but 64 in down and in int8.",
            rich_help_panel=_SHAPE,
        ),
    ] = None

    def check(self, bundle: Path | None) -> None:
        """Refuses a shape beside a bundle, and settings of a shape without one.

        Raises:
            InputError: The flags contradict one another, or the group size is none that the kernels have.
        """
        if self.shape is not None and bundle is not None:
            raise InputError("name a bundle or a --shape, not both")
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if self.shape is None and given:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to a --shape; a bundle has its own")
        check_group_size(self.group_size)


@with_flags(FLAGS)
def bench(
    bundle: BundleArgument = None,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...",
            help="What to measure, separated by commas: prefill, decode, siglip, projector, eagle, first-token. By "
            "default everything.",
        ),
    ] = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of positions to prefill, separated by commas.")
    ] = "128,512,1024",
    context: Annotated[int, typer.Option(help="Positions that are computed before decoding begins.")] = 512,
    new_tokens: Annotated[int, typer.Option(help="Tokens to decode in every repetition.")] = 16,
    eagle_preset: Annotated[
        EaglePreset, typer.Option(help="Preset for the Eagle tokens of the picture, which has 1280 x 720 pixels.")
    ] = "balanced",
    warm_up: Annotated[int, typer.Option(help="Repetitions before those that count.")] = 1,
    repetitions: Annotated[int, typer.Option(help="Repetitions that count; the figures are their medians.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    *,
    load: Annotated[LoadOptions, Only(("threads", "isa", "activations", "device", "vision_engine"))],
    shape: ShapeFlags,
) -> None:
    """Measure prefill, decode, the vision engines and the time to the first token.

    Each time stands beside what this machine's memory or arithmetic could do at that very moment; all are medians.
    """
    shape.check(bundle)
    from valley2_edge.bench.options import Options, parse_parts

    options = Options(
        parts=None if parts is None else parse_parts(parts),
        lengths=_parse_lengths(lengths),
        context=context,
        new_tokens=new_tokens,
        eagle_preset=eagle_preset,
        warm_up=warm_up,
        repetitions=repetitions,
        load=load,
    )
    if shape.shape is None:
        _bench_bundle(resolve_bundle(bundle), options, as_json)
    else:
        _bench_shape(shape, options, as_json)


def _bench_bundle(directory: Path, options: Options, as_json: bool) -> None:
    from valley2_edge.bundle import read_manifest

    def measure(options: Options, progress: StageProgress, on_report: Callable[[Report], None]) -> Report:
        from valley2_edge.bench.run import bench_bundle

        return bench_bundle(directory, options, progress, on_report)

    read_manifest(directory)
    _show(measure, options, as_json, lambda: None)


def _bench_shape(shape: ShapeFlags, options: Options, as_json: bool) -> None:
    directory = Path(tempfile.mkdtemp(prefix="valley2-bench-"))

    def measure(options: Options, progress: StageProgress, on_report: Callable[[Report], None]) -> Report:
        from valley2_edge.bench.run import bench_shape

        small = (shape.shape or "", shape.layers, shape.precision or "int4", shape.group_size)
        return bench_shape(*small, options, progress, directory, on_report)

    _show(measure, options, as_json, lambda: shutil.rmtree(directory, ignore_errors=True))


def _show(measure: Measure, options: Options, as_json: bool, tidy: Callable[[], None]) -> None:
    """Measures and prints; a signal ends the process with what was measured until then."""
    measured: list[Report] = []
    try:
        with stage_progress(error_console()) as progress:
            report = run_until_interrupted(lambda: measure(options, progress, measured.append))
    except Interrupted:
        if measured:
            _print(measured[-1], as_json)
        leave("stopped; what was measured is above" if measured else "stopped; nothing was measured yet", tidy)
    finally:
        tidy()
    _print(report, as_json)


def _print(report: Report, as_json: bool) -> None:
    from valley2_edge.cli.bench_view import print_report

    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        print_report(output_console(), report)


def _parse_lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--lengths takes whole numbers by commas, not {text!r}") from None
