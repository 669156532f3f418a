"""What decides the bytes of a bundle besides the checkpoint: the user's options, with every default filled in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from valley2_edge.bundle import FORMAT_VERSION
from valley2_edge.errors import ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import DecoderFormats, decoder_formats
from valley2_edge.export.gptq.config import read_gptq_config
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.rounding.rounder import Rounding, resolve_rounding
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, GraphFormat, VisionPrecision
from valley2_edge.quantize.matrix_format import DEFAULT_GROUP_SIZE, MatrixFormat
from valley2_edge.rotation import Rotation
from valley2_edge.version import __version__


@dataclass(frozen=True)
class ExportPlan:
    """How every component of one bundle is made."""

    vision_precision: VisionPrecision
    graphs: GraphFormat | None
    """Which graphs of the vision towers the bundle has."""
    formats: DecoderFormats
    rounding: Rounding
    decoder_engine: DecoderEngine = "native"
    rotation: Rotation | None = None
    """What the weights absorb of a change of basis."""
    gptq_decoder: GptqDecoder | None = None
    """A decoder that is rounded already and takes the place of the checkpoint's own."""

    def fingerprint(self, checkpoint: Checkpoint) -> str:
        """The identity of a bundle that is being made: equal fingerprints make equal bundles.

        Args:
            checkpoint: Where the weights come from.

        Returns:
            SHA-256 as hexadecimal digits.
        """
        identity = {
            "checkpoint": [checkpoint.name, checkpoint.revision, checkpoint.fingerprint()],
            "plan": [
                self.vision_precision,
                self.graphs,
                asdict(self.formats),
                self.rounding.identity(),
                self.decoder_engine,
                None if self.rotation is None else self.rotation.model_dump(),
            ],
            "decoder": None if self.gptq_decoder is None else self.gptq_decoder.fingerprint(),
            "tool": [__version__, FORMAT_VERSION],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def with_gptq_decoder(self, decoder: GptqDecoder, lm_head_precision: DecoderPrecision | None) -> ExportPlan:
        """The same plan for a decoder that is rounded already: its layers and its rotation stay as they are.

        Args:
            decoder: The GPTQ checkpoint.
            lm_head_precision: Precision of an output layer that it stores as floats; None means int8.

        Raises:
            ExportError: The output layer is rounded already, to another precision.
        """
        formats = decoder.formats
        if not decoder.output_rounded:
            formats = formats.with_lm_head(MatrixFormat(lm_head_precision or "int8", formats.layers.group_size))
        elif lm_head_precision not in (None, formats.lm_head.precision):
            raise ExportError(
                f"the lm_head of {decoder.path} is rounded to {formats.lm_head.precision} already: it cannot become "
                f"{lm_head_precision}"
            )
        return replace(self, formats=formats, rotation=decoder.rotation, gptq_decoder=decoder)


def make_plan(options: ExportOptions) -> ExportPlan:
    """Checks the options, reads the calibration set, and fills in the defaults; no checkpoint is needed for that.

    Args:
        options: What the user chose.

    Returns:
        The plan, still without the GPTQ decoder that the options may name.

    Raises:
        ExportError: An option is unknown, or options contradict one another.
        CheckpointError: The configuration of the GPTQ decoder is missing or malformed.
        InputError: The calibration set is unusable, or an option of `rounding` is out of range.
    """
    rounding = options.rounding or RoundingOptions()
    formats = decoder_formats(
        options.precision,
        group_size=options.group_size or DEFAULT_GROUP_SIZE,
        symmetric=options.symmetric,
        lm_head_precision=options.lm_head_precision,
        code="nf4" if rounding.method == "nf4" else "uniform",
    )
    options.check_names()
    options.check_rotation()
    if options.decoder is not None:
        read_gptq_config(options.decoder)  # so that a mistake is seen before a download
    resolved = resolve_rounding(rounding, options.precision, options.decoder is not None)
    return ExportPlan(
        options.stored_vision_precision,
        options.graphs,
        formats,
        resolved,
        options.decoder_engine,
        options.chosen_rotation(resolved.method),
    )
