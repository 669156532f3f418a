"""The whole way from a checkpoint to a bundle."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from valley2_edge.export.bundle.writer import BundleWriter, check_place
from valley2_edge.export.bundle_size import bundle_size
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.hub import resolve_checkpoint
from valley2_edge.export.checkpoint.rotated import RotatedCheckpoint
from valley2_edge.export.control import (
    Announce,
    ExportControl,
    Progress,
    cancelling_progress,
    no_announcement,
    no_progress,
)
from valley2_edge.export.decoder.formats import fitted_formats
from valley2_edge.export.decoder_onnx.writer import check_onnx_formats, onnx_decoder_bytes
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.export.manifest import make_manifest, make_source
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.plan import ExportPlan, make_plan
from valley2_edge.export.rounding.rounder import check_rounding_memory, workspace_bytes
from valley2_edge.export.steps import ExportJob, run_steps


def export_bundle(
    checkpoint: str | Path,
    output: Path | None = None,
    options: ExportOptions | None = None,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Announce | None = None,
    control: ExportControl | None = None,
) -> Path:
    """Turns a Valley2 checkpoint into a bundle.

    The bundle appears under its name only when it is whole. Run again after an interruption with the same checkpoint
    and options, it goes on with the first component that was not finished.

    Args:
        checkpoint: A directory, or a hub id.
        output: The bundle's directory. None means CHECKPOINT-PRECISION in the current directory, or CHECKPOINT-gptq
            with a decoder from a GPTQ checkpoint.
        options: How the components are stored; None means the defaults.
        revision: Branch, tag or commit of a hub checkpoint.
        overwrite: Whether a bundle that exists may be replaced.
        progress: Called with a stage's name, the number of finished steps, and the number of all steps.
        announce: Called with a sentence before a download, before gptq with an estimate of its time, and after every
            layer that takes long.
        control: Stops the export from another thread; None means that nothing does.

    Returns:
        The bundle's directory.

    Raises:
        CheckpointError: The checkpoint is missing or not as the model needs it.
        ExportError: An option is not supported, the output exists, or a component came out too inexact.
        BudgetError: The disk cannot hold the download or the bundle, or the memory cannot hold what gptq needs.
        InputError: The calibration set is unusable, or an option of `rounding` is out of range.
        NumericError: A stage computed a NaN or an infinity.
        Cancelled: `control` was cancelled; what is finished waits for the next run with the same arguments.
    """
    options, control = options or ExportOptions(), control or ExportControl()
    progress = cancelling_progress(control, progress or no_progress)
    plan = make_plan(options)
    directory = resolve_checkpoint(checkpoint, revision, progress, announce)
    with ExitStack() as stack:
        opened = stack.enter_context(Checkpoint.open(directory))
        opened.cancel = control
        if options.decoder is not None:
            gptq_decoder = GptqDecoder(options.decoder, opened.config.decoder)
            plan = plan.with_gptq_decoder(gptq_decoder, options.lm_head_precision)
        elif options.group_size is None:
            plan = replace(plan, formats=fitted_formats(plan.formats, opened.config.decoder))
        if plan.rotation is not None:
            # Everything behind this line sees another checkpoint: the same function in another basis.
            opened = stack.enter_context(RotatedCheckpoint(opened, plan.rotation))
        if plan.decoder_engine == "onnx":
            check_onnx_formats(opened.config, plan.formats)
        target = _output_directory(output, opened, options)
        check_place(target, directory)
        with BundleWriter(target, plan.fingerprint(opened), overwrite=overwrite, control=control) as writer:
            writer.check_space(_disk_bytes(opened, plan))
            check_rounding_memory(opened, plan.rounding)
            source = make_source(opened, plan)
            facts = run_steps(ExportJob(opened, plan, writer, source, progress, announce or no_announcement))
            return writer.publish(make_manifest(opened.config, plan, source, facts, writer.files()))


def _output_directory(output: Path | None, checkpoint: Checkpoint, options: ExportOptions) -> Path:
    kind = options.precision if options.decoder is None else "gptq"
    return Path(f"{checkpoint.name.rpartition('/')[2]}-{kind}" if output is None else output).resolve()


def _disk_bytes(checkpoint: Checkpoint, plan: ExportPlan) -> int:
    """Bytes of the bundle and of what lies beside it while it is made."""
    size = bundle_size(checkpoint, plan.vision_precision, plan.formats, graphs=plan.graphs is not None)
    if plan.decoder_engine == "onnx":
        size += onnx_decoder_bytes(checkpoint.config, plan.formats)  # beside the native files, which go at the end
    return size + workspace_bytes(checkpoint, plan.rounding, size)
