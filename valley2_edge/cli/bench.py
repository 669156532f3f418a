"""`valley2-edge bench`: how fast the model runs on this machine, beside what the machine can do at most."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from valley2_edge.bundle import read_manifest
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.chat_options import VisionEngineOption
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
from valley2_edge.cli.rounding_options import check_group_size
from valley2_edge.cli.terminal import error_console, output_console, stage_progress
from valley2_edge.errors import InputError
from valley2_edge.options import EaglePreset
from valley2_edge.precisions import DecoderPrecision

if TYPE_CHECKING:
    from valley2_edge.bench.report import Report

_SHAPE = "Without a bundle"


def bench(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="The bundle; without it $VALLEY2_BUNDLE, then the one exported last."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A decoder with synthetic weights instead: qwen2.5-7b, tiny.", rich_help_panel=_SHAPE
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Of the shape; fewer than it has.", rich_help_panel=_SHAPE)] = None,
    precision: Annotated[
        DecoderPrecision | None,
        typer.Option(help="Of the shape's matrices; int4 when not given.", rich_help_panel=_SHAPE),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Columns that share a scale; 128 when not given.", rich_help_panel=_SHAPE)
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(metavar="PART,...", help="Among prefill, decode, siglip, projector, eagle, first-token."),
    ] = None,
    lengths: Annotated[str, typer.Option(metavar="N,...", help="Positions of the prefills.")] = "128,512,1024",
    context: Annotated[int, typer.Option(help="Positions before decoding begins.")] = 512,
    new_tokens: Annotated[int, typer.Option(help="To decode in every repetition.")] = 16,
    eagle_preset: Annotated[EaglePreset, typer.Option(help="Of the picture, which has 1280 x 720.")] = "balanced",
    threads: Annotated[int, typer.Option(min=0, help="Of all engines; 0: as many as the process may run on.")] = 0,
    isa: Annotated[
        Literal["auto", "portable", "avx2", "avx-vnni", "avx512-vnni", "neon"], typer.Option(help="Of the decoder.")
    ] = "auto",
    activations: Annotated[
        Literal["int8", "int16"], typer.Option(help="Of quantised matrices; int16 is finer at twice the arithmetic.")
    ] = "int8",
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="Of the decoder, as in chat; shares are then of what it can do."),
    ] = None,
    vision_engine: VisionEngineOption = "auto",
    warm_up: Annotated[int, typer.Option(help="Repetitions that do not count.")] = 1,
    repetitions: Annotated[int, typer.Option(help="Those that do.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure prefill, decode, the vision engines and the time to the first token.

    Each time stands beside what this machine's memory or arithmetic could do at that very moment; all are medians.
    """
    if shape is not None and bundle is not None:
        raise InputError("name a bundle or a --shape, not both")
    only_shape = {"layers": layers, "precision": precision, "group-size": group_size}
    given = [name for name, value in only_shape.items() if value is not None]
    if shape is None and given:
        raise InputError(f"--{given[0]} belongs to a --shape; a bundle has its own")
    if group_size is not None:
        check_group_size(group_size)
    from valley2_edge.bench.options import Options, parse_parts

    options = Options(
        None if parts is None else parse_parts(parts),
        _parse_lengths(lengths),
        context,
        new_tokens,
        eagle_preset,
        threads,
        isa,
        activations,
        warm_up,
        repetitions,
        device,
        vision_engine,
    )
    if shape is None:
        directory = resolve_bundle(bundle)
        read_manifest(directory)
    else:
        directory = Path(tempfile.mkdtemp(prefix="valley2-bench-"))
    measured: list[Report] = []

    def work() -> Report:
        from valley2_edge.bench.run import bench_bundle, bench_shape

        if shape is None:
            return bench_bundle(directory, options, progress, measured.append)
        small = (shape, layers, precision or "int4", group_size or 128)
        return bench_shape(*small, options, progress, directory, measured.append)

    def tidy() -> None:
        if shape is not None:
            shutil.rmtree(directory, ignore_errors=True)

    try:
        with stage_progress(error_console()) as progress:
            report = run_until_interrupted(work)
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
