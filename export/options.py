"""What a user may choose about a bundle; made and checked before torch or a checkpoint is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from valley2_edge.errors import ExportError
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, GraphFormat, RotationChoice, VisionPrecision
from valley2_edge.rotation import Rotation

if TYPE_CHECKING:
    from valley2_edge.quantize.method import MethodName


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
    group_size: int | None = None
    """Number of columns that share a scale in int4 and int8: 32, 64 or 128. None means 128 in int4, but
    64 in `down` and where 128 does not divide the columns; and 64 in int8."""
    symmetric: bool | None = None
    """Whether int4 has no zero points, which saves 1 byte a group for a slightly larger error. None means with zero
    points, except for nf4, which never has them."""
    lm_head_precision: DecoderPrecision | None = None
    """Precision of the output layer. None means int8 with an int4 decoder, else the decoder's own."""
    rounding: RoundingOptions | None = None
    """Method, calibration set and measured quality (docs/quantization.md). None means gptq on the built-in set
    for int4 and rounding to the nearest level for int8, without measuring the quality."""
    decoder: Path | None = None
    """A GPTQ checkpoint whose decoder takes the place of the checkpoint's own (docs/interchange.md). The precision,
    group size and symmetry of its layers are its own; the options for them are not used."""
    decoder_engine: DecoderEngine = "native"
    """"native" stores the core's own files; "onnx" stores graphs with the same integers and scales, which ONNX Runtime
    runs on whatever it supports (docs/bundle.md, "ONNX decoder")."""

    rotation: RotationChoice | None = None
    """Whether the weights absorb a rotation of the residual stream, which makes them easier to round
    (docs/quantization.md). None means hadamard for gptq and for int8; a GPTQ decoder has its own."""

    @property
    def stored_vision_precision(self) -> VisionPrecision:
        """The precision of the stored vision weights, with the default filled in."""
        if self.vision_precision is not None:
            return self.vision_precision
        return "fp32" if self.precision == "fp32" else "bf16"

    def check_names(self) -> None:
        """Refuses values that do not exist, and graphs of towers in int8.

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
        if self.rotation is not None and self.rotation not in get_args(RotationChoice):
            raise ExportError(f"rotation {self.rotation!r} is unknown: choose hadamard or none")
        if self.decoder_engine not in get_args(DecoderEngine):
            raise ExportError(f"decoder engine {self.decoder_engine!r} is unknown: choose native or onnx")

    def check_rotation(self) -> None:
        """Refuses a rotation where nothing is rounded, or where the decoder is rounded already.

        Raises:
            ExportError: The rotation does not go with another option.
        """
        if self.decoder is not None and self.rotation is not None:
            raise ExportError("--rotation does not go with --decoder, whose weights are rotated already or not")
        if self.rotation == "hadamard" and self.precision not in ("int4", "int8"):
            raise ExportError(
                f"--rotation hadamard makes weights easier to round, but --precision {self.precision} rounds none: "
                "leave it out"
            )

    def chosen_rotation(self, method: MethodName) -> Rotation | None:
        """The rotation that the weights absorb, with the default filled in; None with a GPTQ decoder, which decides.

        Args:
            method: How the decoder is rounded. Without regard to the inputs (rtn, nf4) the errors of four bits are the
                same in every direction once the weights are rotated, also in the few where the inputs are large: there
                a rotation does harm.
        """
        if self.decoder is not None or self.precision not in ("int4", "int8"):
            return None
        gains = method == "gptq" or self.precision == "int8"
        return Rotation() if self.rotation == "hadamard" or (self.rotation is None and gains) else None
