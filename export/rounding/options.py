"""What a user may choose about rounding and its measured quality; checked before torch or a checkpoint is loaded."""

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

FILE_SAMPLES = 128
"""Default number of samples of a user's own calibration file."""
BUDGET_BYTES = 8 << 30
"""Default memory of the process."""


@dataclass(frozen=True)
class RoundingOptions:
    """How the decoder is rounded, and how much it may lose; docs/quantization.md explains each option."""

    method: MethodName | None = None
    """The rounding method. None means gptq for int4 and wherever a calibration set is given, else rtn."""
    calibration: str | Path | None = None
    """A file of samples, or "builtin" for the built-in set. None means the built-in one for gptq and `average_bits`,
    else no set."""
    calibration_samples: int | None = None
    """Largest number of samples that are used. None means 128 of a file, and of the built-in set as many as give about
    9,500 tokens of the released model."""
    text_only: bool = False
    """Whether the samples are shown without their pictures."""
    picture_weight: PictureWeight = None
    """Weight of a picture token in a Hessian, where a text token weighs 1. None means 1; "balanced" makes all picture
    tokens of the set weigh as much as all its text tokens."""
    gptq: GptqOptions = field(default_factory=GptqOptions)
    """The options of the method gptq."""
    budget_bytes: int = BUDGET_BYTES
    """Memory that the process may take."""
    average_bits: float | None = None
    """Largest average of stored bits for a weight of the layers; the format is then chosen for each matrix. None means
    that all layers have the same format."""
    quality_samples: int | None = None
    """Number of held-out samples on which the quality is measured; 0 measures nothing. So many lines of the user's own
    calibration file are held out for it at most. None means 32 when `method` is "gptq" or one of `calibration`,
    `average_bits` and `max_kl` is given, else 0: gptq by default is not measured."""
    max_kl: float | None = None
    """Mean KL divergence in nats above which the bundle is not published: that of held-out lines of the user's own
    calibration file, where there are some. None allows any."""


def check_options(options: RoundingOptions, precision: DecoderPrecision, rounded_elsewhere: bool) -> None:
    """Refuses options that contradict one another or are out of range.

    Args:
        options: What the user chose.
        precision: Precision of the decoder's layers.
        rounded_elsewhere: Whether the decoder comes from a GPTQ checkpoint.

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
    if options.calibration_samples is not None and options.calibration_samples < 1:
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
