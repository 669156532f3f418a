"""What a user may choose about a bundle; made and checked before torch or a checkpoint is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from valley2_edge.errors import ExportError
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, GraphFormat, VisionPrecision
from valley2_edge.quantize.matrix_format import DEFAULT_GROUP_SIZE


@dataclass(frozen=True)
class ExportOptions:
    """How the components of a bundle are stored."""

    precision: DecoderPrecision = "int4"
    """Precision of the decoder's layers."""
    vision_precision: VisionPrecision | None = None
    """Precision of the vision towers' matrices. int8 leaves the patch embeddings and the projector in bf16. None means
    fp32 with an fp32 decoder, else bf16, which a released checkpoint has itself."""
    graphs: GraphFormat | None = None
    """Which graphs of the vision towers the bundle has beside them, for engines other than the core. None means none:
    a machine that wants graphs makes them itself."""
    group_size: int = DEFAULT_GROUP_SIZE
    """Number of columns that share a scale in int4 and int8: 32, 64 or 128."""
    symmetric: bool | None = None
    """Whether int4 has no zero points, which saves 1 byte a group for a slightly larger error. None means with zero
    points, except for nf4, which never has them."""
    lm_head_precision: DecoderPrecision | None = None
    """Precision of the output layer. None means int8 with an int4 decoder, else the decoder's own."""
    rounding: RoundingOptions | None = None
    """Method, calibration set and measured quality (docs/quantization.md). None means rounding to the nearest level,
    without measuring the quality."""
    decoder: Path | None = None
    """A GPTQ checkpoint whose decoder takes the place of the checkpoint's own (docs/interchange.md). The precision,
    group size and symmetry of its layers are its own; the options for them are not used."""
    decoder_engine: DecoderEngine = "native"
    """"native" stores the core's own files; "onnx" stores graphs with the same integers and scales, which ONNX Runtime
    runs on whatever it supports (docs/bundle.md, "ONNX decoder")."""

    @property
    def stored_vision_precision(self) -> VisionPrecision:
        """The precision of the stored vision weights, with the default filled in."""
        if self.vision_precision is not None:
            return self.vision_precision
        return "fp32" if self.precision == "fp32" else "bf16"

    def check_names(self) -> None:
        """Refuses a vision precision, graphs or a decoder engine that do not exist, and graphs of towers in int8.

        Raises:
            ExportError: A value is unknown, and the message lists those that are known; or there are no such graphs.
        """
        if self.stored_vision_precision not in get_args(VisionPrecision):
            raise ExportError(
                f"vision precision {self.vision_precision!r} is unknown: choose {', '.join(get_args(VisionPrecision))}"
            )
        if self.graphs is not None and self.graphs not in get_args(GraphFormat):
            raise ExportError(f"graphs {self.graphs!r} are unknown: choose {', '.join(get_args(GraphFormat))}")
        if self.graphs is not None and self.stored_vision_precision == "int8":
            raise ExportError("no graphs can be made of vision towers in int8: use --vision-precision bf16")
        if self.decoder_engine not in get_args(DecoderEngine):
            raise ExportError(f"decoder engine {self.decoder_engine!r} is unknown: choose native or onnx")
