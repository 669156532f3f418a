"""How a decoder is rounded and judged, as the user wants it; checked before torch or a checkpoint is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from valley2_edge.errors import ExportError, InputError
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.gptq_options import GptqOptions

if TYPE_CHECKING:
    from valley2_edge.quantize.method import MethodName
    from valley2_edge.quantize.modality import PictureWeight

CALIBRATION_SAMPLES = 128
BUDGET_BYTES = 8 << 30


@dataclass(frozen=True)
class RoundingOptions:
    """How the decoder is rounded, and how that is judged; docs/quantization.md explains each."""

    method: MethodName | None = None
    """None: gptq with a calibration set, else rtn."""
    calibration: str | Path | None = None
    """A file of samples, "builtin", or None: no set, the built-in one with method gptq."""
    calibration_samples: int = CALIBRATION_SAMPLES
    """At most."""
    text_only: bool = False
    """Show the samples without their pictures."""
    picture_weight: PictureWeight = None
    """Weight of a picture token in a Hessian, that of a text token being 1; None: 1; "balanced"."""
    gptq: GptqOptions = field(default_factory=GptqOptions)
    budget_bytes: int = BUDGET_BYTES
    """Memory of the process at most."""
    average_bits: float | None = None
    """Stored bits a weight of the layers at most; the formats are then chosen for each matrix."""
    quality_samples: int | None = None
    """Held-out samples; 0 measures nothing; None: 32 when a calibration set or max_kl is given, else 0."""
    max_kl: float | None = None
    """Mean KL in nats above which the bundle is not published."""


def check_options(options: RoundingOptions, precision: DecoderPrecision, rounded_elsewhere: bool) -> None:
    """Refuses options that contradict one another or are out of range.

    Args:
        options: As the user gave them.
        precision: Of the decoder's layers.
        rounded_elsewhere: The decoder comes from a GPTQ checkpoint.

    Raises:
        InputError: An option is out of range.
        ExportError: Options contradict one another.
    """
    quantized = precision in ("int4", "int8")
    asked = options.method is not None or options.calibration is not None or options.average_bits is not None
    if asked and not quantized:
        raise ExportError(f"--precision {precision} rounds nothing: --method and --calibration go with int4 and int8")
    if asked and rounded_elsewhere:
        raise ExportError(
            "--method, --calibration and --average-bits do not go with --decoder, which is rounded already"
        )
    if options.method == "nf4" and options.average_bits is not None:
        raise ExportError("--average-bits chooses among levels of equal steps: it does not go with --method nf4")
    if options.calibration_samples < 1:
        raise InputError(f"--calibration-samples must be at least 1, not {options.calibration_samples}.")
    if options.quality_samples is not None and options.quality_samples < 0:
        raise InputError(f"--quality-samples must be 0 or more, not {options.quality_samples}.")
    if options.max_kl is not None and not options.max_kl > 0:
        raise InputError(f"--max-kl must be above 0, not {options.max_kl:g}.")
    if options.max_kl is not None and options.quality_samples == 0:
        raise InputError("--max-kl needs a measured quality: --quality-samples must be above 0.")
    if options.average_bits is not None and not 0 < options.average_bits < math.inf:
        raise InputError(f"--average-bits must be above 0, not {options.average_bits:g}.")
    weight = options.picture_weight
    if isinstance(weight, float) and not 0 <= weight < math.inf:
        raise InputError(f"--picture-weight is a number from 0 up or balanced, not {weight:g}.")
