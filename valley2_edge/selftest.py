"""The self-test inside a bundle: what it asks and what has to come out, as export writes it and run time reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valley2_edge.bundle import Bundle
from valley2_edge.config import first_problem
from valley2_edge.errors import BundleError
from valley2_edge.outside_files import MAX_JSON_BYTES, decode, parse_json
from valley2_edge.outside_tensors import load_tensors

SELFTEST_FILE = "selftest/selftest.json"
SELFTEST_PICTURE = "selftest/picture.png"
SELFTEST_REFERENCE = "selftest/reference.safetensors"
MAX_SELFTEST_BYTES = 256 << 20
"""The largest picture and the largest reference; the released sizes make 20 MB."""

_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 24)]
_Positive = Annotated[int, Field(strict=True, ge=1, le=1 << 24)]
_Tolerance = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
SelfTestStage = Literal["siglip_features", "projector_tokens", "eagle_tokens", "input_embeddings", "logits"]


class SelfTest(BaseModel):
    """`selftest.json`: one question about one picture, asked with the options named here and defaults otherwise.

    `reference.safetensors` holds, all float32, with n = ceil(rows / stride):

    - siglip_features (n, C), projector_tokens (n, hidden): every `tile_stride`-th row of (tiles * patches, C) and of
      (tiles * tokens_per_side^2, hidden), computed by torch from the checkpoint;
    - eagle_tokens (n, hidden): every `eagle_stride`-th row of (eagle_tokens, hidden), by torch from the checkpoint;
      absent without an Eagle branch;
    - embedding_sums (L,), embedding_norms (L,): sum and norm of each row of the prompt's input embeddings, with the
      bundle's own vision graphs;
    - logits (logit_rows, vocab): of the last positions, by torch in float32 from the bundle's own dequantised decoder
      and those input embeddings.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["valley2-selftest"] = "valley2-selftest"
    format_version: Literal[1] = 1
    question: str
    policy: Literal["hub", "repo"]
    strict: bool
    eagle_preset: Literal["fast", "balanced", "document", "full"]
    prompt: str
    """The rendered prompt, `<image>` where the picture stands."""
    input_ids: list[Annotated[int, Field(strict=True, ge=-200, le=1 << 22)]]
    """The tokens of the prompt, -200 where the picture stands."""
    tile_stride: _Positive
    eagle_stride: _Positive
    siglip_tokens: _Count
    """SigLIP tokens of the picture, as the decoder sees them."""
    eagle_tokens: _Count
    prefill_length: _Count
    """Positions of the whole prompt (L in the shapes)."""
    logit_rows: _Positive
    activations: Literal["int8", "int16"]
    """How the decoder has to run for the tolerance on logits to hold; kv_precision fp32."""
    tolerances: dict[SelfTestStage, _Tolerance]
    """Norm of the difference over norm of the reference; for input_embeddings of every row on its own."""


def read_self_test(bundle: Bundle) -> tuple[SelfTest, dict[str, npt.NDArray[Any]]]:
    """The self-test of a bundle, and what has to come out by its name.

    Raises:
        BundleError: The bundle has none, or it is damaged, not complete, or has changed since the bundle was checked.
    """
    path, place = bundle.path(SELFTEST_FILE), bundle.path(SELFTEST_REFERENCE)
    text = decode(bundle.read(SELFTEST_FILE, MAX_JSON_BYTES), str(path), BundleError)
    try:
        test = SelfTest.model_validate(parse_json(text, str(path), BundleError))
    except ValidationError as error:
        raise BundleError(f"{path}: {first_problem(error)}; export the bundle again") from error
    reference = load_tensors(bundle.read(SELFTEST_REFERENCE, MAX_SELFTEST_BYTES), place, BundleError)
    needed = {"siglip_features", "projector_tokens", "embedding_sums", "embedding_norms", "logits"}
    stages = set(get_args(SelfTestStage))
    if bundle.manifest.architecture.eagle is not None:
        needed |= {"eagle_tokens"}
    else:
        stages -= {"eagle_tokens"}
    for what, missing in ((place, needed - reference.keys()), (path, stages - test.tolerances.keys())):
        if missing:
            raise BundleError(f"{what} lacks {min(missing)}; export the bundle again")
    return test, reference
