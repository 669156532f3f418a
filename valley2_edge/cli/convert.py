"""`valley2-edge convert`: a bundle's decoder becomes a GPTQ checkpoint, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from valley2_edge.bundle import MANIFEST_NAME, Bundle, open_bundle
from valley2_edge.cli.export import require_build_time_packages
from valley2_edge.cli.terminal import StageProgress, error_console, output_console, print_line, stage_progress
from valley2_edge.errors import InputError


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A bundle, or a directory with a GPTQ checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="What to make: the other of the two.")],
    vision: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Gives the towers, the tokenizer and the architecture of a new bundle."),
    ] = None,
    checkpoint_format: Annotated[
        Literal["gptq", "gptq_v2"] | None,
        typer.Option(help="Of a new GPTQ checkpoint; gptq for symmetric weights, else gptq_v2, when not given."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run made.")] = False,
) -> None:
    """Turn a bundle's decoder into a GPTQ checkpoint, or a GPTQ checkpoint into a bundle; both without a loss."""
    require_build_time_packages()
    from valley2_edge.export.interchange import bundle_gptq_checkpoint, write_gptq_checkpoint

    if not source.is_dir():
        raise InputError(f"{source} is not a directory with a bundle or a GPTQ checkpoint")
    from_bundle = (source / MANIFEST_NAME).is_file()
    if from_bundle and vision is not None:
        raise InputError(f"{source} is a bundle: --vision goes with a GPTQ checkpoint")
    if not from_bundle and checkpoint_format is not None:
        raise InputError(f"{source} is no bundle: --checkpoint-format goes with a new GPTQ checkpoint")
    with stage_progress(error_console()) as progress:
        if from_bundle:
            made = write_gptq_checkpoint(
                _open(source, progress),
                target,
                checkpoint_format=checkpoint_format,
                overwrite=overwrite,
                progress=progress,
            )
        elif vision is None:
            raise InputError(f"{source} holds a decoder only: name the bundle of the vision half with --vision BUNDLE")
        else:
            made = bundle_gptq_checkpoint(
                source, target, _open(vision, progress), overwrite=overwrite, progress=progress
            )
    print_line(output_console(), f"{made}: the {'GPTQ checkpoint' if from_bundle else 'bundle'} is complete")


def _open(bundle: Path, progress: StageProgress) -> Bundle:
    return open_bundle(bundle, progress=lambda done, total: progress("checking files", done, total))
