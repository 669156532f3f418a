"""`valley2-edge export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from valley2_edge.byte_count import format_bytes
from valley2_edge.chosen_bundle import remember_bundle
from valley2_edge.cli.flags import with_flags
from valley2_edge.cli.graph_packages import require_graph_packages
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
from valley2_edge.cli.rounding_flags import RoundingFlags, make_rounding_options
from valley2_edge.cli.terminal import error_console, output_console, print_line, stage_progress
from valley2_edge.errors import ExportError, InputError
from valley2_edge.export.checkpoint.local import DEFAULT_CHECKPOINT, local_checkpoint
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, GraphFormat, RotationChoice, VisionPrecision

if TYPE_CHECKING:
    from rich.console import Console

    from valley2_edge.bundle import Bundle
    from valley2_edge.export.control import ExportControl
    from valley2_edge.export.options import ExportOptions

EXAMPLES = examples(
    "valley2-edge export nano",
    "valley2-edge export Valley2-DPO --method rtn --output my-bundle",
    "valley2-edge export Valley2-DPO --calibration my-samples.jsonl",
    "valley2-edge export bytedance-research/Valley2-DPO --precision int8",
)

DECIDED_BY_DECODER = ("precision", "group_size", "symmetric")
"""Options that say how to round the layers, which a decoder from elsewhere answers itself."""
_SOURCE = "Where the decoder comes from and what runs it"
BUILD_TIME_PACKAGES = ("torch", "transformers", "onnx")


@dataclass(frozen=True)
class PrecisionFlags:
    """What is typed about the precision of each part of a bundle; None where another flag decides."""

    precision: Annotated[DecoderPrecision, typer.Option(help="Precision of the decoder's matrices.")] = "int4"
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Columns of a matrix that share a scale: 32, 64 or 128. By default 128, but 64 in down and in int8.",
            show_default=False,
        ),
    ] = None
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric",
            help="Whether int4 goes without zero points or has them. By default it has them; nf4 never has any.",
            show_default=False,
        ),
    ] = None
    lm_head_precision: Annotated[
        DecoderPrecision | None,
        typer.Option(help="Precision of the output layer. By default int8 with --precision int4, else as --precision."),
    ] = None
    vision_precision: Annotated[
        VisionPrecision | None,
        typer.Option(help="Precision of the vision weights. By default bf16, or fp32 with --precision fp32."),
    ] = None
    rotation: Annotated[
        RotationChoice | None,
        typer.Option(
            help="Whether the weights absorb a rotation of the residual stream, which makes them easier to round and "
            "costs nothing at run time. By default hadamard with --method gptq and with --precision int8.",
        ),
    ] = None
    graphs: Annotated[
        GraphFormat | None,
        typer.Option(help="Graphs of the vision towers beside them, for ONNX Runtime and TensorRT. By default none."),
    ] = None


@with_flags({})
def export(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A directory with config.json and safetensors, an id of the Hugging Face hub, or nano for the model "
            "in this package.",
        ),
    ] = DEFAULT_CHECKPOINT,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The bundle's directory. By default CHECKPOINT-PRECISION in this folder."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    decoder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A GPTQ checkpoint whose decoder takes the place of the checkpoint's own.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    decoder_engine: Annotated[
        DecoderEngine,
        typer.Option(
            help="What runs the decoder: native for the core, onnx for graphs that ONNX Runtime runs on whatever it "
            "supports.",
            rich_help_panel=_SOURCE,
        ),
    ] = "native",
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a checkpoint on the hub.", rich_help_panel=_SOURCE),
    ] = None,
    *,
    precisions: PrecisionFlags,
    rounding: RoundingFlags,
) -> None:
    """Export a Valley2 checkpoint to a bundle that needs no torch."""
    if decoder is not None:
        _refuse_rounding_options(context)
    options = make_rounding_options(
        rounding, precisions.precision, precisions.group_size, precisions.symmetric, decoder is not None
    )
    _check_paths(checkpoint, revision, decoder, output, overwrite)
    require_build_time_packages()
    if precisions.graphs is not None:
        require_graph_packages()
    from valley2_edge.export.options import ExportOptions

    export_options = ExportOptions(
        **asdict(precisions), rounding=options, decoder=decoder, decoder_engine=decoder_engine
    )
    export_options.check_rotation()  # so that a mistake is seen before torch is loaded
    _run(checkpoint, output, export_options, revision=revision, overwrite=overwrite)


def _run(checkpoint: str, output: Path | None, options: ExportOptions, **others: Any) -> None:
    """Exports with progress on stderr; a signal ends the process with a sentence about what is kept."""
    from valley2_edge.bundle import open_bundle
    from valley2_edge.export.control import ExportControl

    messages, control = error_console(), ExportControl()

    def work() -> Bundle:
        progress("loading torch", 0, 1)
        from valley2_edge.export.pipeline import export_bundle

        progress("loading torch", 1, 1)
        made = export_bundle(
            checkpoint,
            output,
            options,
            progress=progress,
            announce=lambda sentence: print_line(messages, sentence),
            control=control,
            **others,
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
    from valley2_edge.export.bundle.writer import check_output, check_place
    from valley2_edge.export.checkpoint.config import read_model_config

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
