"""The steps that make the components of a bundle, in their order."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from valley2_edge.bundle import Bundle, MatrixError, Source
from valley2_edge.errors import Valley2Warning
from valley2_edge.export.bundle.tokenizer_files import copy_tokenizer
from valley2_edge.export.bundle.writer import BundleWriter
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import Announce, Progress, no_progress
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layout import DECODER_FILE
from valley2_edge.export.decoder.writer import export_decoder, export_embeddings, export_rounded_decoder
from valley2_edge.export.decoder_onnx.writer import write_onnx_decoder
from valley2_edge.export.manifest import Facts, make_manifest, matrix_errors
from valley2_edge.export.onnx.graph import data_path
from valley2_edge.export.plan import ExportPlan
from valley2_edge.export.quality.report import REPORT_FILE, ReportData, render_report
from valley2_edge.export.quality.survey import check_max_kl, measure_before_publishing
from valley2_edge.export.rounding.rounder import round_with_calibration
from valley2_edge.export.selftest.writer import write_selftest
from valley2_edge.export.vision.component import export_vision
from valley2_edge.export.vision.graphs import make_graph
from valley2_edge.runtime.core.vision_engine import ComponentName

_OTHER_MODEL_ERROR = 0.6
"""Relative error of a matrix above which it is probably not the checkpoint's own matrix, rounded."""


@dataclass(frozen=True)
class ExportJob:
    """What every step may use."""

    checkpoint: Checkpoint
    plan: ExportPlan
    writer: BundleWriter
    source: Source
    """Where the bundle comes from, for its manifest."""
    progress: Progress
    announce: Announce


def _always(job: ExportJob) -> bool:
    return True


def _nothing(job: ExportJob, facts: Facts) -> None:
    pass


@dataclass(frozen=True)
class Step:
    """Makes one component of a bundle."""

    name: str
    """The component's name in the writer's record of progress."""
    make: Callable[[ExportJob, Facts, Path], dict[str, Any]]
    """Writes the component below a directory, given the facts about earlier components. It returns facts about its own
    component as plain JSON."""
    wanted: Callable[[ExportJob], bool] = _always
    """Whether this bundle has the component."""
    conclude: Callable[[ExportJob, Facts], None] = _nothing
    """Runs when the component is finished, also when an earlier run has finished it; `facts` has its own facts too."""


def run_steps(job: ExportJob) -> Facts:
    """Makes the components that a bundle needs, except those that an earlier run has finished.

    Args:
        job: The export.

    Returns:
        What each component says about itself, by its name.

    Raises:
        Valley2Error: A component cannot be made; `export_bundle` lists the kinds.
    """
    facts: dict[str, dict[str, Any]] = {}
    for step in STEPS:
        if step.wanted(job):
            facts[step.name] = job.writer.component(step.name, partial(step.make, job, facts))
            step.conclude(job, facts)
    return facts


def _unfinished_bundle(job: ExportJob, facts: Facts, directory: Path) -> Bundle:
    """The bundle as far as it is finished."""
    manifest = make_manifest(job.checkpoint.config, job.plan, job.source, facts, job.writer.files())
    return Bundle(directory, manifest)


def _vision_step(component: ComponentName) -> Step:
    def make(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
        made = export_vision(job.checkpoint, component, directory, job.plan.vision_precision, job.progress)
        return made.model_dump()

    def wanted(job: ExportJob) -> bool:
        return component != "eagle" or job.checkpoint.config.eagle is not None

    return Step(component, make, wanted)


def _make_graphs(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    """Writes the graphs of the towers that are finished; its facts are the files of each."""
    files: dict[str, list[str]] = {}
    components: tuple[ComponentName, ...] = get_args(ComponentName)
    for component in components:
        if component in facts:
            (tower,) = facts[component]["files"]
            path = (directory / tower).with_suffix(".onnx")
            make_graph(directory / tower, component, job.checkpoint.config, path, job.progress)
            files[component] = [file.relative_to(directory).as_posix() for file in (path, data_path(path))]
    return {"files": files}


def _make_decoder(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    """Writes the decoder; its facts are the error of each matrix, the layers' format, and how it was rounded."""
    checkpoint, plan = job.checkpoint, job.plan
    config, formats, rounding = checkpoint.config.decoder, plan.formats, {}
    records: dict[str, dict[str, Any]] = {}
    if plan.gptq_decoder is not None:
        errors = export_rounded_decoder(
            plan.gptq_decoder, config, directory, formats, job.progress, reference=checkpoint
        )
    elif plan.rounding.calibration is None:
        errors = export_decoder(checkpoint, config, directory, formats, job.progress)
    else:
        bundle = _unfinished_bundle(job, facts, directory)
        workspace, control = job.writer.workspace, job.writer.control
        rounded = round_with_calibration(
            checkpoint, bundle, plan.rounding, formats, workspace, job.progress, job.announce, control
        )
        formats, rounding = rounded.formats, rounded.facts
        records = {record["name"]: record for record in rounding.pop("matrices")}
        errors = export_rounded_decoder(rounded.layers, config, directory, formats, no_progress, reference=checkpoint)
    layers = formats.layers
    return {
        "matrices": [_with_record(error, formats, records).model_dump() for error in errors],
        "layers": [layers.precision, layers.group_size, layers.symmetric, layers.code],
        "rounding": rounding,
    }


def _with_record(error: MatrixError, formats: DecoderFormats, records: dict[str, dict[str, Any]]) -> MatrixError:
    """A matrix's error with what the rounding method noted about it, and with its group size where that is special."""
    record, matrix_format = records.get(error.name, {}), formats.of(error.name)
    special = matrix_format.quantized and matrix_format.group_size != formats.layers.group_size
    return error.model_copy(
        update={
            "output_error": record.get("output_error"),
            "note": record.get("fallback"),
            "group_size": matrix_format.group_size if special else error.group_size,
        }
    )


def _warn_of_another_model(job: ExportJob, facts: Facts) -> None:
    """Rounding to four bits moves a matrix by a tenth or two of its norm; training moves it by less."""
    decoder = job.plan.gptq_decoder
    if decoder is None:
        return
    worst = max(matrix_errors(facts), key=lambda error: error.relative_error)
    if worst.relative_error > _OTHER_MODEL_ERROR:
        warnings.warn(
            f"{worst.name} of {decoder.path} is {worst.relative_error:.2f} of its norm away from the checkpoint's: "
            "it may be the decoder of another model",
            Valley2Warning,
            stacklevel=2,
        )


def _make_embeddings(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    source = job.plan.gptq_decoder or job.checkpoint
    export_embeddings(source, job.checkpoint.config.decoder, directory, job.progress)
    return {}


def _make_onnx_decoder(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    return {"files": write_onnx_decoder(directory, job.checkpoint.config, job.progress)}


def _make_tokenizer(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    copy_tokenizer(job.checkpoint.path, directory)
    return {}


def _make_selftest(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    return dict(
        write_selftest(job.checkpoint, directory, job.plan.vision_precision, job.plan.formats.quantized, job.progress)
    )


def _make_report(job: ExportJob, facts: Facts, directory: Path) -> dict[str, Any]:
    """Measures the bundle where that is asked for, and writes the report; its facts are the figures."""
    bundle, rounding = _unfinished_bundle(job, facts, directory), job.plan.rounding
    measured = measure_before_publishing(
        job.checkpoint,
        bundle,
        rounding.quality_samples,
        rounding.own_text,
        job.writer.workspace,
        rounding.options.budget_bytes,
        job.progress,
    )
    figures: dict[str, Any] = {} if measured is None else measured.figures()
    found = facts["decoder"]["rounding"]
    if found:
        figures["calibration"] = found["calibration"]
    manifest = bundle.manifest
    data = ReportData(manifest.source, manifest.decoder, manifest.files, figures, found)
    (directory / REPORT_FILE).write_text(render_report(data), "utf-8")
    return figures


STEPS: tuple[Step, ...] = (
    _vision_step("siglip"),
    _vision_step("projector"),
    _vision_step("eagle"),
    Step("graphs", _make_graphs, wanted=lambda job: job.plan.graphs is not None),
    Step("decoder", _make_decoder, conclude=_warn_of_another_model),
    Step("embeddings", _make_embeddings),
    Step(
        "onnx decoder",
        _make_onnx_decoder,
        wanted=lambda job: job.plan.decoder_engine == "onnx",
        conclude=lambda job, facts: job.writer.withdraw(DECODER_FILE),
    ),
    Step("tokenizer", _make_tokenizer),
    Step("selftest", _make_selftest),
    Step(
        "report",
        _make_report,
        wanted=lambda job: job.plan.formats.quantized or job.plan.rounding.quality_samples > 0,
        conclude=lambda job, facts: check_max_kl(facts["report"], job.plan.rounding.options.max_kl),
    ),
)
"""Later steps read what earlier ones wrote: graphs are made from the towers, the decoder may be rounded on what the
towers make of pictures, the ONNX decoder is made from the native one, the self-test runs the whole bundle, and the
report measures it."""
