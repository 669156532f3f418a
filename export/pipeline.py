"""The whole way from a checkpoint to a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from valley2_edge.bundle import (
    FORMAT_VERSION,
    DecoderComponent,
    DecoderPrecision,
    Manifest,
    MatrixError,
    Source,
    VisionComponent,
    VisionPrecision,
)
from valley2_edge.errors import ExportError
from valley2_edge.export.bundle_size import bundle_size
from valley2_edge.export.bundle_writer import BundleWriter
from valley2_edge.export.checkpoint import Checkpoint
from valley2_edge.export.decoder import decoder_formats, export_decoder, export_embeddings
from valley2_edge.export.decoder_layout import DECODER_FILE, EMBEDDINGS_FILE, DecoderFormats
from valley2_edge.export.hub import resolve_checkpoint
from valley2_edge.export.selftest import write_selftest
from valley2_edge.export.tokenizer_files import copy_tokenizer
from valley2_edge.export.vision import ComponentName, export_vision
from valley2_edge.version import __version__

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""
Announce = Callable[[str], None]
"""Called with a sentence for the user."""


@dataclass(frozen=True)
class _Plan:
    """What decides the bytes of a bundle, beside the checkpoint."""

    vision_precision: VisionPrecision
    formats: DecoderFormats

    def fingerprint(self, checkpoint: Checkpoint) -> str:
        identity = {
            "checkpoint": [checkpoint.name, checkpoint.revision, checkpoint.fingerprint()],
            "plan": asdict(self),
            "tool": [__version__, FORMAT_VERSION],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def export_bundle(
    checkpoint: str | Path,
    output: Path | None = None,
    *,
    precision: DecoderPrecision = "int4",
    vision_precision: VisionPrecision | None = None,
    group_size: int = 128,
    symmetric: bool = False,
    lm_head_precision: DecoderPrecision | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> Path:
    """Turns a Valley2 checkpoint into a bundle.

    The bundle appears under its name only when it is whole. Run again after an interruption with the same checkpoint
    and options, it goes on with the first component that was not finished.

    Args:
        checkpoint: A directory, or a hub id.
        output: The bundle's directory; None: CHECKPOINT-PRECISION in the current directory.
        precision: Of the decoder's layers.
        vision_precision: Of the stored vision weights; None: fp32 with an fp32 decoder, else fp16.
        group_size: Columns that share a scale, for int4 and int8: 32, 64 or 128.
        symmetric: int4 without zero points: 1 byte less for each group, a slightly larger error.
        lm_head_precision: Of the output layer; None: int8 with an int4 decoder, else the decoder's own.
        revision: Branch, tag or commit of a hub checkpoint.
        overwrite: Replace a bundle that exists.
        progress: Called with a stage's name, the steps done and the steps in all.
        announce: Called with a sentence before a download.

    Returns:
        The bundle's directory.

    Raises:
        CheckpointError: The checkpoint is missing or not as the model needs it.
        ExportError: An option is not supported, the output exists, or a component came out too inexact.
        BudgetError: The disk cannot hold the download or the bundle.
        NumericError: A stage of the self-test computed a NaN or an infinity.
    """
    formats = decoder_formats(
        precision, group_size=group_size, symmetric=symmetric, lm_head_precision=lm_head_precision
    )
    if vision_precision is None:
        vision_precision = "fp32" if precision == "fp32" else "fp16"
    if vision_precision not in ("fp16", "fp32"):
        raise ExportError(f"vision precision {vision_precision!r} is unknown: choose fp16 or fp32")
    plan = _Plan(vision_precision, formats)
    directory = resolve_checkpoint(checkpoint, revision, progress, announce)
    with Checkpoint.open(directory) as opened:
        name = f"{opened.name.rpartition('/')[2]}-{precision}"
        target = Path(name if output is None else output).resolve()
        with BundleWriter(target, plan.fingerprint(opened), overwrite=overwrite) as writer:
            writer.check_space(bundle_size(opened, vision_precision, formats))
            manifest = _write_components(opened, writer, plan, progress or _silent)
            return writer.publish(manifest)


def _write_components(checkpoint: Checkpoint, writer: BundleWriter, plan: _Plan, progress: Progress) -> Manifest:
    config = checkpoint.config

    def vision(component: ComponentName) -> VisionComponent:
        facts = writer.component(
            component,
            lambda directory: export_vision(
                checkpoint, component, directory, plan.vision_precision, progress
            ).model_dump(),
        )
        return VisionComponent(**facts)

    def decoder(directory: Path) -> dict[str, Any]:
        errors = export_decoder(checkpoint, config.decoder, directory, plan.formats, progress)
        return {"matrices": [error.model_dump() for error in errors]}

    def embeddings(directory: Path) -> dict[str, Any]:
        export_embeddings(checkpoint, config.decoder, directory, progress)
        return {}

    def tokenizer(directory: Path) -> dict[str, Any]:
        copy_tokenizer(checkpoint.path, directory)
        return {}

    def selftest(directory: Path) -> dict[str, Any]:
        return dict(write_selftest(checkpoint, directory, plan.formats.quantized, progress))

    siglip, projector = vision("siglip"), vision("projector")
    eagle = None if config.eagle is None else vision("eagle")
    matrices = [MatrixError(**error) for error in writer.component("decoder", decoder)["matrices"]]
    writer.component("embeddings", embeddings)
    writer.component("tokenizer", tokenizer)
    selftest_errors = writer.component("selftest", selftest)
    return Manifest(
        architecture=config,
        siglip=siglip,
        projector=projector,
        eagle=eagle,
        decoder=_decoder_component(plan, matrices),
        files=writer.files(),
        source=Source(
            checkpoint=checkpoint.name,
            revision=checkpoint.revision,
            tool_version=__version__,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        quality=_quality(matrices, selftest_errors),
    )


def _decoder_component(plan: _Plan, matrices: list[MatrixError]) -> DecoderComponent:
    layers, lm_head, quantized = plan.formats.layers, plan.formats.lm_head, plan.formats.quantized
    return DecoderComponent(
        precision=layers.precision,
        lm_head_precision=lm_head.precision,
        group_size=layers.group_size if quantized else 0,
        symmetric=layers.is_symmetric and lm_head.is_symmetric,
        method="rtn" if quantized else "none",
        files=[DECODER_FILE, EMBEDDINGS_FILE],
        matrices=matrices,
    )


def _quality(matrices: list[MatrixError], selftest_errors: dict[str, Any]) -> dict[str, Any]:
    worst = max(matrices, key=lambda error: error.relative_error)
    mean = sum(error.relative_error for error in matrices) / len(matrices)
    return {
        "decoder_mean_relative_error": float(f"{mean:.6g}"),
        "decoder_worst_matrix": worst.name,
        "decoder_worst_relative_error": worst.relative_error,
        "selftest_vision_relative_error": selftest_errors,
    }


def _silent(stage: str, done: int, total: int) -> None:
    pass
