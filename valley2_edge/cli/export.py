"""`valley2-edge export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.byte_count import format_bytes
from valley2_edge.chosen_bundle import remember_bundle
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
from valley2_edge.cli.rounding_options import (
    AverageBits,
    Calibration,
    CalibrationSamples,
    ColumnOrderOption,
    Damping,
    DescentPasses,
    MaxKl,
    Memory,
    MethodOption,
    PictureWeightOption,
    QualitySamples,
    ScaleRefit,
    ScaleSearch,
    Symmetric,
    TextOnly,
    make_rounding_options,
)
from valley2_edge.cli.terminal import error_console, output_console, print_line, stage_progress
from valley2_edge.errors import ExportError, InputError
from valley2_edge.export.bundle.writer import check_output, check_place
from valley2_edge.export.checkpoint.config import read_model_config
from valley2_edge.export.checkpoint.local import DEFAULT_CHECKPOINT, local_checkpoint
from valley2_edge.export.control import ExportControl
from valley2_edge.export.options import ExportOptions
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, ProjectorPrecision, VisionPrecision

DECIDED_BY_DECODER = ("precision", "group_size", "symmetric")
"""Options that say how to round the layers, which a decoder from elsewhere answers itself."""
BUILD_TIME_PACKAGES = ("torch", "transformers", "onnx")


def export(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(help="A directory with config.json and safetensors, an id of the Hugging Face hub, or nano."),
    ] = DEFAULT_CHECKPOINT,
    precision: Annotated[DecoderPrecision, typer.Option(help="Of the decoder's matrices.")] = "int4",
    vision_precision: Annotated[
        VisionPrecision | None,
        typer.Option(help="Of the stored vision weights; fp16, or fp32 with --precision fp32, when not given."),
    ] = None,
    projector_precision: Annotated[
        ProjectorPrecision | None,
        typer.Option(help="Of the projector's stored weights; what --vision-precision makes of it, when not given."),
    ] = None,
    group_size: Annotated[int, typer.Option(help="Columns that share a scale: 32, 64 or 128.")] = 128,
    symmetric: Symmetric = None,
    lm_head_precision: Annotated[
        DecoderPrecision | None,
        typer.Option(help="Of the output layer; int8 with --precision int4, else as --precision, when not given."),
    ] = None,
    method: MethodOption = None,
    calibration: Calibration = None,
    calibration_samples: CalibrationSamples = 128,
    text_only_calibration: TextOnly = False,
    picture_weight: PictureWeightOption = None,
    column_order: ColumnOrderOption = None,
    scale_search: ScaleSearch = None,
    descent_passes: DescentPasses = None,
    scale_refit: ScaleRefit = None,
    damping: Damping = None,
    average_bits: AverageBits = None,
    memory: Memory = "8GiB",
    quality_samples: QualitySamples = None,
    max_kl: MaxKl = None,
    decoder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A GPTQ checkpoint whose decoder takes the place of the checkpoint's own."),
    ] = None,
    decoder_engine: Annotated[
        DecoderEngine,
        typer.Option(help="native: the core's own files; onnx: graphs that ONNX Runtime runs on what it supports."),
    ] = "native",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub checkpoint.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The bundle's directory; CHECKPOINT-PRECISION here when not given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Export a Valley2 checkpoint to a bundle that needs no torch."""
    if decoder is not None:
        _refuse_rounding_options(context)
    rounding = make_rounding_options(
        precision,
        group_size=group_size,
        symmetric=symmetric,
        rounded_elsewhere=decoder is not None,
        method=method,
        calibration=calibration,
        calibration_samples=calibration_samples,
        text_only=text_only_calibration,
        picture_weight=picture_weight,
        order=column_order,
        scale_search=scale_search,
        descent_passes=descent_passes,
        scale_refit=scale_refit,
        damping=damping,
        average_bits=average_bits,
        memory=memory,
        quality_samples=quality_samples,
        max_kl=max_kl,
    )
    _check_paths(checkpoint, revision, decoder, output, overwrite)
    require_build_time_packages()
    messages, control = error_console(), ExportControl()

    def work() -> Bundle:
        progress("loading torch", 0, 1)
        from valley2_edge.export.pipeline import export_bundle

        progress("loading torch", 1, 1)
        made = export_bundle(
            checkpoint,
            output,
            ExportOptions(
                precision=precision,
                vision_precision=vision_precision,
                projector_precision=projector_precision,
                group_size=group_size,
                symmetric=symmetric,
                lm_head_precision=lm_head_precision,
                rounding=rounding,
                decoder=decoder,
                decoder_engine=decoder_engine,
            ),
            revision=revision,
            overwrite=overwrite,
            progress=progress,
            announce=lambda sentence: print_line(messages, sentence),
            control=control,
        )
        # Hashes what export has just written, so that the first chat need not.
        return open_bundle(made, progress=lambda done, total: progress("checking files", done, total))

    try:
        with stage_progress(messages) as progress:
            bundle = run_until_interrupted(work)
    except Interrupted:
        leave_export(control)
    _conclude(bundle, messages)


def leave_export(control: ExportControl) -> NoReturn:
    """Ends the process after Ctrl-C with what is kept of an export or a conversion."""
    control.abandon()
    leave(f"stopped; {control.outcome()}", control.tidy)


def _check_paths(
    checkpoint: str, revision: str | None, decoder: Path | None, output: Path | None, overwrite: bool
) -> None:
    """Fails before torch is loaded for what is not there, and for an output that cannot be."""
    local = local_checkpoint(checkpoint, revision)
    if local is not None:
        read_model_config(local)
    if decoder is not None and not decoder.is_dir():
        raise InputError(f"--decoder {decoder} is not a directory with a GPTQ checkpoint")
    if output is not None:
        check_place(output, local)
        check_output(output, overwrite=overwrite)


def _refuse_rounding_options(context: typer.Context) -> None:
    for name in DECIDED_BY_DECODER:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise InputError(f"--{name.replace('_', '-')} does not go with --decoder, which is rounded already")


def _conclude(bundle: Bundle, messages: Console) -> None:
    print_line(output_console(), f"{bundle.directory}: {format_bytes(bundle.size)}")
    try:
        remember_bundle(bundle.directory)
    except OSError as error:
        named = f" --bundle {shlex.quote(str(bundle.directory))}"
        print_line(messages, f"valley2-edge: warning: the bundle could not be remembered ({error.strerror})")
    else:
        named = ""
    print_line(output_console(), f'Next: valley2-edge chat{named} picture.jpg "What is this?"')


def require_build_time_packages() -> None:
    """Fails before any work when the export extra is not installed.

    Raises:
        ExportError: A package is missing.
    """
    missing = [name for name in BUILD_TIME_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"export needs {', '.join(missing)}, which the base installation leaves out; "
            "run `pip install valley2-edge[export]`"
        )
