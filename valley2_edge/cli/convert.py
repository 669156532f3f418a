"""`valley2-edge convert`: a bundle's decoder becomes a GPTQ checkpoint, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.export import leave_export, require_build_time_packages
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.interrupts import Interrupted, run_until_interrupted
from valley2_edge.cli.terminal import StageProgress, error_console, output_console, print_line, stage_progress
from valley2_edge.errors import InputError

if TYPE_CHECKING:
    from valley2_edge.bundle import Bundle

EXAMPLES = examples(
    "valley2-edge convert my-bundle my-gptq",
    "valley2-edge convert my-gptq new-bundle --vision my-bundle",
)


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A bundle, or a directory with a GPTQ checkpoint.")],
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="What to make: the GPTQ checkpoint or the bundle."),
    ],
    vision: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Bundle that gives a new bundle its vision half and tokenizer."),
    ] = None,
    checkpoint_format: Annotated[
        Literal["gptq", "gptq_v2"] | None,
        typer.Option(help="Format of a new GPTQ checkpoint. By default gptq for symmetric weights, else gptq_v2."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run made.")] = False,
) -> None:
    """Turn a bundle's decoder into a GPTQ checkpoint, or a GPTQ checkpoint into a bundle; both without a loss."""
    from valley2_edge.bundle import read_manifest
    from valley2_edge.export.bundle.writer import check_place
    from valley2_edge.export.control import ExportControl, cancelling_progress

    is_checkpoint = any((source / name).is_file() for name in ("config.json", "quantize_config.json"))
    directory = source if is_checkpoint else resolve_bundle(source)
    if not directory.is_dir():
        raise InputError(f"{source} is not a directory with a bundle or a GPTQ checkpoint")
    from_bundle = (directory / MANIFEST_NAME).is_file()
    _check_direction(source, from_bundle, vision, checkpoint_format)
    bundle = directory if from_bundle else resolve_bundle(vision)
    read_manifest(bundle)
    check_place(target, directory)
    require_build_time_packages()
    control = ExportControl()

    def work() -> Path:
        progress("loading torch", 0, 1)
        from valley2_edge.export.gptq.bundle_from_checkpoint import bundle_gptq_checkpoint
        from valley2_edge.export.gptq.checkpoint_from_bundle import write_gptq_checkpoint

        progress("loading torch", 1, 1)
        opened = _open(bundle, cancelling_progress(control, progress))
        if from_bundle:
            return write_gptq_checkpoint(
                opened,
                target,
                checkpoint_format=checkpoint_format,
                overwrite=overwrite,
                progress=progress,
                control=control,
            )
        return bundle_gptq_checkpoint(
            directory, target, opened, overwrite=overwrite, progress=progress, control=control
        )

    try:
        with stage_progress(error_console()) as progress:
            made = run_until_interrupted(work)
    except Interrupted:
        leave_export(control)
    print_line(output_console(), f"{made}: the {'GPTQ checkpoint' if from_bundle else 'bundle'} is complete")


def _check_direction(source: Path, from_bundle: bool, vision: Path | None, checkpoint_format: str | None) -> None:
    """Refuses flags that belong to the other direction, and a checkpoint without a vision half."""
    if from_bundle and vision is not None:
        raise InputError(f"{source} is a bundle: --vision goes with a GPTQ checkpoint")
    if not from_bundle and checkpoint_format is not None:
        raise InputError(f"{source} is no bundle: --checkpoint-format goes with a new GPTQ checkpoint")
    if not from_bundle and vision is None:
        raise InputError(f"{source} holds a decoder only: name the bundle of the vision half with --vision BUNDLE")


def _open(directory: Path, progress: StageProgress) -> Bundle:
    from valley2_edge.bundle import open_bundle

    return open_bundle(directory, progress=lambda done, total: progress("checking files", done, total))
