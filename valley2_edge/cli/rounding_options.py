"""The options of `valley2-edge export` that say how the decoder is rounded; docs/quantization.md explains them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from valley2_edge.errors import InputError
from valley2_edge.outside_files import open_regular
from valley2_edge.precisions import DecoderPrecision

if TYPE_CHECKING:
    from valley2_edge.export.rounding.options import RoundingOptions

_ROUNDING = "Rounding"
_QUALITY = "Quality"

Symmetric = Annotated[
    bool | None,
    typer.Option(
        "--symmetric/--asymmetric",
        help="int4 without or with zero points; with, when not given. nf4 has none.",
        show_default=False,
    ),
]
MethodOption = Annotated[
    Literal["rtn", "gptq", "nf4"] | None,
    typer.Option(help="gptq with a calibration set, else rtn, when not given.", rich_help_panel=_ROUNDING),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|builtin|none",
        help="Samples for gptq: a JSONL file, or the built-in set, which --method gptq takes by itself.",
        rich_help_panel=_ROUNDING,
    ),
]
CalibrationSamples = Annotated[
    int, typer.Option(help="Of the set at most, spread over the file.", rich_help_panel=_ROUNDING)
]
TextOnly = Annotated[
    bool,
    typer.Option("--text-only-calibration", help="Show the samples without pictures.", rich_help_panel=_ROUNDING),
]
PictureWeightOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|balanced",
        help="Of a picture's token in the calibration, that of a text's token being 1.",
        rich_help_panel=_ROUNDING,
    ),
]
ColumnOrderOption = Annotated[
    Literal["columns", "activation", "groups"] | None,
    typer.Option(help="In which gptq rounds columns.", rich_help_panel=_ROUNDING),
]
ScaleSearch = Annotated[
    bool | None,
    typer.Option(
        "--scale-search/--no-scale-search", help="gptq: scales by the output's error.", rich_help_panel=_ROUNDING
    ),
]
DescentPasses = Annotated[
    int | None,
    typer.Option(help="gptq: over the integers after they are rounded; 0: none.", rich_help_panel=_ROUNDING),
]
ScaleRefit = Annotated[
    bool | None,
    typer.Option(
        "--scale-refit/--no-scale-refit", help="gptq: scales fitted to the integers, too.", rich_help_panel=_ROUNDING
    ),
]
Damping = Annotated[
    float | None, typer.Option(help="gptq: added to the Hessian's diagonal.", rich_help_panel=_ROUNDING)
]
AverageBits = Annotated[
    float | None,
    typer.Option(
        help="Stored bits a weight of the layers at most; each matrix gets its own format.", rich_help_panel=_ROUNDING
    ),
]
Memory = Annotated[
    str, typer.Option(help="Of the process at most; what does not fit waits on disk.", rich_help_panel=_ROUNDING)
]
QualitySamples = Annotated[
    int | None,
    typer.Option(
        help="Held-out samples to measure the bundle with; 32 with a calibration set or --max-kl, else 0.",
        rich_help_panel=_QUALITY,
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(help="Publish nothing when the mean KL is above this, in nats.", rich_help_panel=_QUALITY),
]


def make_rounding_options(
    precision: DecoderPrecision,
    *,
    group_size: int,
    symmetric: bool | None,
    rounded_elsewhere: bool,
    method: Literal["rtn", "gptq", "nf4"] | None,
    calibration: str | None,
    picture_weight: str | None,
    order: Literal["columns", "activation", "groups"] | None,
    scale_search: bool | None,
    descent_passes: int | None,
    scale_refit: bool | None,
    damping: float | None,
    memory: str,
    **others: Any,
) -> RoundingOptions:
    """The options as the exporter takes them, checked without torch.

    Args:
        precision: Of the layers.
        group_size: Of the layers; checked here, not part of the result.
        symmetric: Likewise.
        rounded_elsewhere: The decoder comes from a GPTQ checkpoint.
        method: Of rounding.
        calibration: A path, "builtin" or "none".
        picture_weight: A number or "balanced".
        order: Of GPTQ.
        scale_search: Of GPTQ.
        descent_passes: Of GPTQ.
        scale_refit: Of GPTQ.
        damping: Of GPTQ.
        memory: For example 8GiB.
        others: As they are.

    Raises:
        InputError: A value cannot be read or is out of range, or a file is missing.
        ExportError: Options contradict one another.
    """
    from valley2_edge.export.rounding.options import RoundingOptions, check_options
    from valley2_edge.quantize.gptq_options import GptqOptions
    from valley2_edge.quantize.matrix_format import MatrixFormat

    check_group_size(group_size)
    if method == "nf4":
        MatrixFormat(precision, code="nf4")
        if symmetric is False:
            raise InputError("nf4 has no zero points: --asymmetric does not go with --method nf4")
    if calibration is not None and calibration not in ("none", "builtin"):
        if not Path(calibration).exists():
            raise InputError(f"there is no file at --calibration {calibration}; it is a JSONL file, builtin or none")
        open_regular(calibration, InputError).close()
    given = {
        "order": order,
        "scale_search": scale_search,
        "descent_passes": descent_passes,
        "scale_refit": scale_refit,
        "damping": damping,
    }
    options = RoundingOptions(
        method=method,
        calibration=None if calibration == "none" else calibration,
        picture_weight=_read_weight(picture_weight),
        gptq=GptqOptions(**{name: value for name, value in given.items() if value is not None}),  # type: ignore[arg-type]
        budget_bytes=_read_memory(memory),
        **others,
    )
    check_options(options, precision, rounded_elsewhere)
    return options


def check_group_size(group_size: int) -> None:
    """Refuses a group size that the kernels do not have.

    Raises:
        InputError: It is none of 32, 64 and 128.
    """
    from valley2_edge.quantize.matrix_format import GROUP_SIZES

    if group_size not in GROUP_SIZES:
        raise InputError(f"--group-size must be 32, 64 or 128, not {group_size}")


def _read_memory(text: str) -> int:
    from valley2_edge.byte_count import parse_bytes

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
