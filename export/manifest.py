"""Makes the manifest of a bundle from what its finished components say about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from valley2_edge.bundle import DecoderComponent, FileEntry, Manifest, MatrixError, Source, VisionComponent
from valley2_edge.config import ModelConfig
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.layout import DECODER_FILE, EMBEDDINGS_FILE
from valley2_edge.export.plan import ExportPlan
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.version import __version__

Facts = Mapping[str, Mapping[str, Any]]
"""What each finished component says about itself, as plain JSON, by the component's name."""


def make_source(checkpoint: Checkpoint, plan: ExportPlan) -> Source:
    """Where a bundle comes from, with the present time.

    Args:
        checkpoint: The unrounded model.
        plan: How the bundle is made.
    """
    calibration = plan.rounding.calibration
    return Source(
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        calibration_sha256=None if calibration is None else calibration.sha256,
    )


def make_manifest(
    config: ModelConfig, plan: ExportPlan, source: Source, facts: Facts, files: Mapping[str, FileEntry]
) -> Manifest:
    """The manifest of a bundle, finished or being made.

    Args:
        config: The architecture.
        plan: How the bundle is made.
        source: Where it comes from.
        facts: What the components that are finished say; those of the vision half must be among them.
        files: The files of the finished components, by their paths in the bundle.
    """
    eagle, graphs = facts.get("eagle"), facts.get("graphs")
    matrices = matrix_errors(facts)
    return Manifest(
        architecture=config,
        siglip=VisionComponent(**facts["siglip"]),
        projector=VisionComponent(**facts["projector"]),
        eagle=None if eagle is None else VisionComponent(**eagle),
        graphs=None if graphs is None else graphs["files"],
        decoder=_decoder_component(plan, facts, matrices),
        files=dict(files),
        source=source,
        quality=_quality(plan, facts, matrices),
    )


def matrix_errors(facts: Facts) -> list[MatrixError]:
    """What rounding cost each matrix of the decoder, in file order; empty before the decoder is finished.

    Args:
        facts: What the finished components say.
    """
    return [MatrixError(**error) for error in facts["decoder"]["matrices"]] if "decoder" in facts else []


def _decoder_component(plan: ExportPlan, facts: Facts, matrices: list[MatrixError]) -> DecoderComponent:
    lm_head, quantized = plan.formats.lm_head, plan.formats.quantized
    # An average of bits may have chosen other formats for the layers than the plan names.
    layers = MatrixFormat(*facts["decoder"]["layers"]) if "decoder" in facts else plan.formats.layers
    method = plan.rounding.method if quantized else "none"
    onnx = facts.get("onnx decoder")
    return DecoderComponent(
        precision=layers.precision,
        lm_head_precision=lm_head.precision,
        group_size=layers.group_size if quantized else 0,
        symmetric=layers.is_symmetric and lm_head.is_symmetric,
        method=method if plan.gptq_decoder is None else plan.gptq_decoder.method,
        engine="native" if onnx is None else "onnx",
        files=[DECODER_FILE, EMBEDDINGS_FILE] if onnx is None else onnx["files"],
        rotation=plan.rotation,
        matrices=matrices,
    )


def _quality(plan: ExportPlan, facts: Facts, matrices: list[MatrixError]) -> dict[str, Any]:
    quality: dict[str, Any] = {}
    if matrices:
        worst = max(matrices, key=lambda error: error.relative_error)
        mean = sum(error.relative_error for error in matrices) / len(matrices)
        quality["decoder_mean_relative_error"] = float(f"{mean:.6g}")
        quality["decoder_worst_matrix"] = worst.name
        quality["decoder_worst_relative_error"] = worst.relative_error
        if plan.gptq_decoder is not None:
            quality["decoder_source"] = plan.gptq_decoder.path.resolve().name
    if "selftest" in facts:
        quality["selftest_vision_relative_error"] = dict(facts["selftest"])
    return quality | dict(facts.get("report", {}))
