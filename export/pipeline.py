"""The whole way from a checkpoint to a bundle."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from valley2_edge.bundle import FORMAT_VERSION, Bundle, DecoderComponent, Manifest, MatrixError, Source, VisionComponent
from valley2_edge.errors import ExportError, Valley2Warning
from valley2_edge.export.bundle.tokenizer_files import copy_tokenizer
from valley2_edge.export.bundle.writer import BundleWriter, check_place
from valley2_edge.export.bundle_size import bundle_size
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.hub import resolve_checkpoint
from valley2_edge.export.control import Announce, ExportControl, Progress, looking, no_announcement, no_progress
from valley2_edge.export.decoder.formats import DecoderFormats, decoder_formats
from valley2_edge.export.decoder.layout import DECODER_FILE, EMBEDDINGS_FILE
from valley2_edge.export.decoder.writer import export_decoder, export_embeddings, export_rounded_decoder
from valley2_edge.export.decoder_onnx.writer import check_onnx_formats, onnx_decoder_bytes, write_onnx_decoder
from valley2_edge.export.gptq.config import read_gptq_config
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.export.quality.report import REPORT_FILE, ReportData, render_report
from valley2_edge.export.quality.survey import check_max_kl, measure_before_publishing
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.rounding.rounder import (
    Rounding,
    resolve_rounding,
    round_with_calibration,
    workspace_bytes,
)
from valley2_edge.export.selftest.writer import write_selftest
from valley2_edge.export.vision.component import export_vision
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, ProjectorPrecision, VisionPrecision
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.runtime.vision.engine import ComponentName
from valley2_edge.version import __version__

_ANOTHER_MODEL = 0.6
"""Relative error of a matrix above which it is hardly the checkpoint's own, rounded."""


@dataclass(frozen=True)
class _Plan:
    """What decides the bytes of a bundle, beside the checkpoint."""

    vision_precision: VisionPrecision
    projector_precision: ProjectorPrecision | None
    """None: as vision_precision says."""
    formats: DecoderFormats
    rounding: Rounding
    rounded: GptqDecoder | None = None
    """A decoder from elsewhere."""
    engine: DecoderEngine = "native"

    def fingerprint(self, checkpoint: Checkpoint) -> str:
        identity = {
            "checkpoint": [checkpoint.name, checkpoint.revision, checkpoint.fingerprint()],
            "plan": [
                self.vision_precision,
                self.projector_precision,
                asdict(self.formats),
                self.rounding.identity(),
                self.engine,
            ],
            "decoder": None if self.rounded is None else self.rounded.fingerprint(),
            "tool": [__version__, FORMAT_VERSION],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def export_bundle(
    checkpoint: str | Path,
    output: Path | None = None,
    *,
    precision: DecoderPrecision = "int4",
    vision_precision: VisionPrecision | None = None,
    projector_precision: ProjectorPrecision | None = None,
    group_size: int = 128,
    symmetric: bool | None = None,
    lm_head_precision: DecoderPrecision | None = None,
    rounding: RoundingOptions | None = None,
    decoder: Path | None = None,
    decoder_engine: DecoderEngine = "native",
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
        output: The bundle's directory; None: CHECKPOINT-PRECISION in the current directory, CHECKPOINT-gptq with a
            decoder from elsewhere.
        precision: Of the decoder's layers.
        vision_precision: Of the stored vision weights: fp32 and fp16 for ONNX Runtime, bf16 and int8 for the native
            core; None: fp32 with an fp32 decoder, else fp16.
        projector_precision: Of a projector that is a graph, whatever the towers are; int8 has a scale for each channel.
            None: as vision_precision.
        group_size: Columns that share a scale, for int4 and int8: 32, 64 or 128.
        symmetric: int4 without zero points: 1 byte less for each group, a slightly larger error. None: with them,
            except nf4, which never has them.
        lm_head_precision: Of the output layer; None: int8 with an int4 decoder, else the decoder's own.
        rounding: Method, calibration set and measured quality (docs/quantization.md); None: to the nearest, unmeasured.
        decoder: A GPTQ checkpoint whose decoder takes the place of the checkpoint's own (docs/interchange.md). The
            precision, group size and symmetry of its layers are its own; the arguments for them are not used.
        decoder_engine: "native": the core's own files; "onnx": graphs with the same integers and scales, which ONNX
            Runtime runs on whatever it supports (docs/bundle.md, "ONNX decoder").
        revision: Branch, tag or commit of a hub checkpoint.
        overwrite: Replace a bundle that exists.
        progress: Called with a stage's name, the steps done and the steps in all.
        announce: Called with a sentence before a download, and after every layer that takes long.
        control: Stops the export from another thread; None: nothing does.

    Returns:
        The bundle's directory.

    Raises:
        CheckpointError: The checkpoint is missing or not as the model needs it.
        ExportError: An option is not supported, the output exists, or a component came out too inexact.
        BudgetError: The disk cannot hold the download or the bundle.
        InputError: The calibration set is unusable, or an option of `rounding` is out of range.
        NumericError: A stage computed a NaN or an infinity.
        Cancelled: `control` was cancelled; what is finished waits for the next run with the same arguments.
    """
    control = control or ExportControl()
    progress = looking(control, progress or no_progress)
    formats = decoder_formats(
        precision,
        group_size=group_size,
        symmetric=symmetric,
        lm_head_precision=lm_head_precision,
        code="nf4" if rounding is not None and rounding.method == "nf4" else "uniform",
    )
    if vision_precision is None:
        vision_precision = "fp32" if precision == "fp32" else "fp16"
    if vision_precision not in get_args(VisionPrecision):
        raise ExportError(
            f"vision precision {vision_precision!r} is unknown: choose {', '.join(get_args(VisionPrecision))}"
        )
    if projector_precision is not None and projector_precision not in get_args(ProjectorPrecision):
        raise ExportError(
            f"projector precision {projector_precision!r} is unknown: choose {', '.join(get_args(ProjectorPrecision))}"
        )
    if decoder_engine not in ("native", "onnx"):
        raise ExportError(f"decoder engine {decoder_engine!r} is unknown: choose native or onnx")
    if decoder is not None:
        read_gptq_config(decoder)  # a mistake is seen before a download
    resolved = resolve_rounding(rounding or RoundingOptions(), precision, decoder is not None)
    directory = resolve_checkpoint(checkpoint, revision, progress, announce)
    with Checkpoint.open(directory) as opened:
        opened.cancel = control
        plan = _Plan(vision_precision, projector_precision, formats, resolved, engine=decoder_engine)
        if decoder is not None:
            plan = _plan_with_decoder(plan, GptqDecoder(decoder, opened.config.decoder), lm_head_precision)
        if plan.engine == "onnx":
            check_onnx_formats(opened.config, plan.formats)
        name = f"{opened.name.rpartition('/')[2]}-{precision if decoder is None else 'gptq'}"
        target = Path(name if output is None else output).resolve()
        check_place(target, directory)
        with BundleWriter(target, plan.fingerprint(opened), overwrite=overwrite, control=control) as writer:
            size = bundle_size(opened, plan.vision_precision, plan.projector_precision, plan.formats)
            if plan.engine == "onnx":
                size += onnx_decoder_bytes(opened.config, plan.formats)  # beside the native files, which go at the end
            writer.check_space(size + workspace_bytes(opened, resolved, size))
            manifest = _write_components(opened, writer, plan, progress, announce or no_announcement)
            return writer.publish(manifest)


def _plan_with_decoder(plan: _Plan, decoder: GptqDecoder, lm_head_precision: DecoderPrecision | None) -> _Plan:
    """Layers stay as they are rounded; an output layer of floats is rounded as export does it."""
    formats = decoder.formats
    if not decoder.output_rounded:
        formats = formats.with_lm_head(MatrixFormat(lm_head_precision or "int8", formats.layers.group_size))
    elif lm_head_precision not in (None, formats.lm_head.precision):
        raise ExportError(
            f"the lm_head of {decoder.path} is rounded to {formats.lm_head.precision} already: it cannot become "
            f"{lm_head_precision}"
        )
    return replace(plan, formats=formats, rounded=decoder)


def _write_components(
    checkpoint: Checkpoint, writer: BundleWriter, plan: _Plan, progress: Progress, announce: Announce
) -> Manifest:
    config = checkpoint.config

    def vision(component: ComponentName) -> VisionComponent:
        own = plan.projector_precision if component == "projector" else None
        facts = writer.component(
            component,
            lambda directory: export_vision(
                checkpoint, component, directory, own or plan.vision_precision, progress, as_graph=own is not None
            ).model_dump(),
        )
        return VisionComponent(**facts)

    def embeddings(directory: Path) -> dict[str, Any]:
        export_embeddings(plan.rounded or checkpoint, config.decoder, directory, progress)
        return {}

    def tokenizer(directory: Path) -> dict[str, Any]:
        copy_tokenizer(checkpoint.path, directory)
        return {}

    def selftest(directory: Path) -> dict[str, Any]:
        return dict(write_selftest(checkpoint, directory, plan.formats.quantized, progress))

    manifest = Manifest(
        architecture=config,
        siglip=vision("siglip"),
        projector=vision("projector"),
        eagle=None if config.eagle is None else vision("eagle"),
        decoder=_decoder_component(plan, plan.formats.layers, []),
        files=writer.files(),
        source=_source(checkpoint, plan),
    )
    decoder_facts = writer.component(
        "decoder", lambda directory: _make_decoder(checkpoint, directory, writer, plan, manifest, progress, announce)
    )
    matrices = [MatrixError(**error) for error in decoder_facts["matrices"]]
    manifest.decoder = _decoder_component(plan, MatrixFormat(*decoder_facts["layers"]), matrices)
    manifest.quality = _quality(matrices)
    if plan.rounded is not None:
        manifest.quality["decoder_source"] = plan.rounded.path.resolve().name
        _warn_of_another_model(plan.rounded, matrices)
    writer.component("embeddings", embeddings)
    if plan.engine == "onnx":
        facts = writer.component(
            "onnx decoder", lambda directory: {"files": write_onnx_decoder(directory, config, progress)}
        )
        manifest.decoder.engine, manifest.decoder.files = "onnx", facts["files"]
        writer.withdraw(DECODER_FILE)
    writer.component("tokenizer", tokenizer)
    manifest.quality["selftest_vision_relative_error"] = writer.component("selftest", selftest)
    if plan.formats.quantized or plan.rounding.quality_samples:
        manifest.files = writer.files()
        manifest.quality |= writer.component(
            "report",
            lambda directory: _make_report(checkpoint, directory, writer, plan, manifest, decoder_facts, progress),
        )
        check_max_kl(manifest.quality, plan.rounding.options.max_kl)
    manifest.files = writer.files()
    return manifest


def _make_decoder(
    checkpoint: Checkpoint,
    directory: Path,
    writer: BundleWriter,
    plan: _Plan,
    manifest: Manifest,
    progress: Progress,
    announce: Announce,
) -> dict[str, Any]:
    """Writes the decoder; its facts are the error of each matrix, the layers' format, and how it was rounded."""
    config, formats, rounding = checkpoint.config.decoder, plan.formats, {}
    by_name: dict[str, dict[str, Any]] = {}
    if plan.rounded is not None:
        errors = export_rounded_decoder(plan.rounded, config, directory, formats, progress, reference=checkpoint)
    elif plan.rounding.calibration is None:
        errors = export_decoder(checkpoint, config, directory, formats, progress)
    else:
        bundle = Bundle(directory, manifest)
        found = round_with_calibration(
            checkpoint, bundle, plan.rounding, formats, writer.workspace, progress, announce, writer.control
        )
        formats, rounding = found.formats, found.facts
        by_name = {record["name"]: record for record in rounding.pop("matrices")}
        errors = export_rounded_decoder(found.layers, config, directory, formats, no_progress, reference=checkpoint)
    for error in errors:
        record = by_name.get(error.name, {})
        error.output_error, error.note = record.get("output_error"), record.get("fallback")
        if formats.of(error.name).quantized and formats.of(error.name).group_size != formats.layers.group_size:
            error.group_size = formats.of(error.name).group_size
    layers = formats.layers
    return {
        "matrices": [error.model_dump() for error in errors],
        "layers": [layers.precision, layers.group_size, layers.symmetric, layers.code],
        "rounding": rounding,
    }


def _make_report(
    checkpoint: Checkpoint,
    directory: Path,
    writer: BundleWriter,
    plan: _Plan,
    manifest: Manifest,
    decoder_facts: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Measures the bundle where that is asked for, and writes the report; its facts are the figures."""
    measured = measure_before_publishing(
        checkpoint,
        Bundle(directory, manifest),
        plan.rounding.quality_samples,
        writer.workspace,
        plan.rounding.options.budget_bytes,
        progress,
    )
    figures: dict[str, Any] = {} if measured is None else measured.figures()
    if decoder_facts["rounding"]:
        figures["calibration"] = decoder_facts["rounding"]["calibration"]
    data = ReportData(manifest.source, manifest.decoder, manifest.files, figures, decoder_facts["rounding"])
    (directory / REPORT_FILE).write_text(render_report(data), "utf-8")
    return figures


def _source(checkpoint: Checkpoint, plan: _Plan) -> Source:
    calibration = plan.rounding.calibration
    return Source(
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        calibration_sha256=None if calibration is None else calibration.sha256,
    )


def _decoder_component(plan: _Plan, layers: MatrixFormat, matrices: list[MatrixError]) -> DecoderComponent:
    lm_head, quantized = plan.formats.lm_head, plan.formats.quantized
    method = plan.rounding.method if quantized else "none"
    return DecoderComponent(
        precision=layers.precision,
        lm_head_precision=lm_head.precision,
        group_size=layers.group_size if quantized else 0,
        symmetric=layers.is_symmetric and lm_head.is_symmetric,
        method=method if plan.rounded is None else plan.rounded.method,
        files=[DECODER_FILE, EMBEDDINGS_FILE],
        matrices=matrices,
    )


def _warn_of_another_model(decoder: GptqDecoder, matrices: list[MatrixError]) -> None:
    """Rounding to four bits moves a matrix by a tenth or two of its norm; training moves it by less."""
    worst = max(matrices, key=lambda error: error.relative_error)
    if worst.relative_error > _ANOTHER_MODEL:
        warnings.warn(
            f"{worst.name} of {decoder.path} is {worst.relative_error:.2f} of its norm away from the checkpoint's: "
            "it may be the decoder of another model",
            Valley2Warning,
            stacklevel=2,
        )


def _quality(matrices: list[MatrixError]) -> dict[str, Any]:
    worst = max(matrices, key=lambda error: error.relative_error)
    mean = sum(error.relative_error for error in matrices) / len(matrices)
    return {
        "decoder_mean_relative_error": float(f"{mean:.6g}"),
        "decoder_worst_matrix": worst.name,
        "decoder_worst_relative_error": worst.relative_error,
    }
