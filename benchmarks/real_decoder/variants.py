"""The roundings that are compared: command lines of `export`, and types of llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from work import Base

OWN_TEXT = "{own_text}"
"""Stands for the file with texts of the evaluation's kind."""


@dataclass(frozen=True)
class Export:
    """A bundle by this project's `export`."""

    arguments: tuple[str, ...]
    base: Base = "plain"
    """The padded checkpoint is for groups of 128, which do not divide 576 columns."""


@dataclass(frozen=True)
class LlamaType:
    """A model by llama.cpp's own quantiser."""

    file_type: str
    """A name of `llama_ftype` without LLAMA_FTYPE_MOSTLY_."""
    base: Base = "plain"
    """K-quants need the padded checkpoint: rows that are no multiple of 256 silently become other types."""
    embeddings: str | None = None
    """A name of `ggml_type` without GGML_TYPE_ for the embeddings, which are the output matrix too; None: as the type
    has it."""


Variant = Export | LlamaType


def _export(*arguments: str, base: Base = "plain") -> Export:
    return Export(arguments, base)


def _own_text(*arguments: str, base: Base = "plain") -> Export:
    return Export((*arguments, "--method", "gptq", "--calibration", OWN_TEXT, "--calibration-samples", "32"), base)


VARIANTS: dict[str, Variant] = {
    "fp16": _export("--precision", "fp16"),
    "default": _export(),
    "default-own": _own_text(),
    "rtn-g128": _export("--method", "rtn", "--group-size", "128", base="padded"),
    "rtn-g64": _export("--method", "rtn", "--group-size", "64"),
    "rtn-g32": _export("--method", "rtn", "--group-size", "32"),
    "nf4-g64": _export("--method", "nf4", "--group-size", "64"),
    "default-own-unrotated": _own_text("--rotation", "none"),
    "default-own-unfollowed": _own_text("--no-follow-unrounded"),
    "default-own-plain": _own_text("--rotation", "none", "--no-follow-unrounded"),
    "gptq-g32-own": _own_text("--group-size", "32"),
    "int8": _export("--precision", "int8"),
    "int8-g32": _export("--precision", "int8", "--group-size", "32"),
    "F16": LlamaType("F16"),
    "Q8_0": LlamaType("Q8_0"),
    "Q6_K": LlamaType("Q6_K", "padded"),
    "Q5_K_M": LlamaType("Q5_K_M", "padded"),
    "Q4_K_M": LlamaType("Q4_K_M", "padded"),
    "Q4_K_M-head8": LlamaType("Q4_K_M", "padded", "Q8_0"),
    "Q4_K_S-head8": LlamaType("Q4_K_S", "padded", "Q8_0"),
    "Q4_1-head8": LlamaType("Q4_1", embeddings="Q8_0"),
    "Q4_0-head8": LlamaType("Q4_0", embeddings="Q8_0"),
}
DEFAULT_VARIANTS = ("default", "default-own", "rtn-g32", "int8", "Q8_0", "Q4_K_M", "Q4_K_M-head8", "Q4_0-head8")
"""What is measured without --variants."""
