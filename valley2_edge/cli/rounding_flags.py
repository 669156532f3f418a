"""The flags of `valley2-edge export` that say how the decoder is rounded; docs/quantization.md explains them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from valley2_edge.byte_count import parse_bytes
from valley2_edge.errors import InputError
from valley2_edge.outside_files import open_regular
from valley2_edge.precisions import GROUP_SIZES, DecoderPrecision

if TYPE_CHECKING:
    from valley2_edge.export.rounding.options import RoundingOptions

_ROUNDING = "Rounding"
_QUALITY = "Quality"


@dataclass(frozen=True)
class RoundingFlags:
    """What is typed about the rounding of the decoder; None where the exporter decides."""

    method: Annotated[
        Literal["rtn", "gptq", "nf4"] | None,
        typer.Option(
            help="How weights are rounded: gptq so that the other weights make up for the error, rtn to the nearest "
            "level in minutes, nf4 to levels of a normal distribution. By default gptq for int4, and for int8 with "
            "--calibration; else rtn.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|builtin",
            help="Samples for gptq: a JSONL file of your own, or the built-in set, which gptq takes by itself.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    calibration_samples: Annotated[
        int | None,
        typer.Option(
            help="Most samples to take from the calibration set; they are spread over it. By default 128 of a file, "
            "and of the built-in set what gptq needs.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    text_only_calibration: Annotated[
        bool,
        typer.Option(
            "--text-only-calibration",
            help="Show the samples of the calibration set without their pictures.",
            rich_help_panel=_ROUNDING,
        ),
    ] = False
    picture_weight: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|balanced",
            help="Weight of a picture's token in the calibration, where a token of text weighs 1. balanced gives all "
            "pictures together as much weight as all text.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    column_order: Annotated[
        Literal["columns", "activation", "groups"] | None,
        typer.Option(
            help="Order in which gptq rounds the columns of a matrix: as they are stored, by their activations, or by "
            "those of whole groups. By default activation.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    follow_unrounded: Annotated[
        bool | None,
        typer.Option(
            "--follow-unrounded/--no-follow-unrounded",
            help="For gptq: fit each matrix to the outputs of the unrounded model, so that it makes up for what the "
            "matrices before it lost. By default on.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    scale_search: Annotated[
        bool | None,
        typer.Option(
            "--scale-search/--no-scale-search",
            help="For gptq: choose each scale by the error of the output. By default on.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    descent_passes: Annotated[
        int | None,
        typer.Option(
            help="For gptq: how often the rounded integers are gone over again to lower the error. By default 3; 0 "
            "leaves them.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    scale_refit: Annotated[
        bool | None,
        typer.Option(
            "--scale-refit/--no-scale-refit",
            help="For gptq: fit the scales to the integers in the first of these passes. By default on.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    damping: Annotated[
        float | None,
        typer.Option(
            help="For gptq: what is added to the diagonal of the Hessian, as a share of its mean. By default 0.01.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    average_bits: Annotated[
        float | None,
        typer.Option(
            help="Most stored bits per weight, on average over the layers; each matrix then gets its own format.",
            rich_help_panel=_ROUNDING,
        ),
    ] = None
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Most memory of the process to use; what does not fit waits on disk.",
            rich_help_panel=_ROUNDING,
        ),
    ] = "8GiB"
    quality_samples: Annotated[
        int | None,
        typer.Option(
            help="Number of held-out samples to measure the bundle with. By default 32 with --calibration, --method "
            "gptq, --average-bits or --max-kl, else 0.",
            rich_help_panel=_QUALITY,
        ),
    ] = None
    max_kl: Annotated[
        float | None,
        typer.Option(
            help="Publish nothing when the mean KL divergence from the checkpoint, in nats, is above this; it is "
            "measured on held-out lines of your own calibration file, where there are some.",
            rich_help_panel=_QUALITY,
        ),
    ] = None


def make_rounding_options(
    flags: RoundingFlags,
    precision: DecoderPrecision,
    group_size: int | None,
    symmetric: bool | None,
    rounded_elsewhere: bool,
) -> RoundingOptions:
    """Makes the options as the exporter takes them from the flags, and checks them without torch.

    Args:
        flags: What was typed.
        precision: Precision of the layers.
        group_size: Columns that share a scale, None for the default; checked here, not part of the result.
        symmetric: Whether int4 has no zero points; checked here, not part of the result.
        rounded_elsewhere: The decoder comes from a GPTQ checkpoint.

    Raises:
        InputError: A value cannot be read or is out of range, or a file is missing.
        ExportError: Options contradict one another.
    """
    from valley2_edge.export.rounding.options import RoundingOptions, check_options
    from valley2_edge.quantize.gptq_options import GptqOptions
    from valley2_edge.quantize.matrix_format import MatrixFormat

    check_group_size(group_size)
    if flags.method == "nf4":
        MatrixFormat(precision, code="nf4")
        if symmetric is False:
            raise InputError("nf4 has no zero points: --asymmetric does not go with --method nf4")
    given = {
        "order": flags.column_order,
        "follow_unrounded": flags.follow_unrounded,
        "scale_search": flags.scale_search,
        "descent_passes": flags.descent_passes,
        "scale_refit": flags.scale_refit,
        "damping": flags.damping,
    }
    options = RoundingOptions(
        method=flags.method,
        calibration=_check_calibration(flags.calibration),
        calibration_samples=flags.calibration_samples,
        text_only=flags.text_only_calibration,
        picture_weight=_read_weight(flags.picture_weight),
        gptq=GptqOptions(**{name: value for name, value in given.items() if value is not None}),  # type: ignore[arg-type]
        budget_bytes=_read_memory(flags.memory),
        average_bits=flags.average_bits,
        quality_samples=flags.quality_samples,
        max_kl=flags.max_kl,
    )
    check_options(options, precision, rounded_elsewhere)
    return options


def _check_calibration(calibration: str | None) -> str | None:
    if calibration in (None, "builtin"):
        return calibration
    if not Path(calibration).exists():
        raise InputError(
            f"there is no file at --calibration {calibration}: name a JSONL file or builtin; --method rtn needs none"
        )
    open_regular(calibration, InputError).close()
    return calibration


def check_group_size(group_size: int | None) -> None:
    """Refuses a group size that the kernels do not have; None is the default.

    Raises:
        InputError: It is none of 32, 64 and 128.
    """
    if group_size is not None and group_size not in GROUP_SIZES:
        raise InputError(f"--group-size must be 32, 64 or 128, not {group_size}")


def _read_memory(text: str) -> int:
    try:
        return parse_bytes(text)
    except InputError as error:
        raise InputError(f"--memory: {error}") from error


def _read_weight(text: str | None) -> float | Literal["balanced"] | None:
    if text is None or text == "balanced":
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--picture-weight is a number from 0 up or balanced, not {text!r}.") from error
